"""Multiply-accumulates of whole families against torch's own count, and of every way to hand a weight over."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations as normed
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from midstate.compaction import count, weight_uses
from midstate.compaction.uses import _is_product
from midstate.sparsity import weight_layers

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4)}
FAMILIES = {
    "beit_base_patch16_224": VIT,
    "eva02_tiny_patch14_224": VIT,
    "deit_tiny_patch16_224": VIT,
    "vit_tiny_patch16_224": VIT,
    "swin_tiny_patch4_window7_224": SWIN,
    "swinv2_tiny_window8_256": SWIN,
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "resnet10t": {},
    "mobilenetv3_small_050": {},
    "efficientnet_lite0": {},
}
CLASSES = {
    "shufflenet": torchvision.models.shufflenet_v2_x0_5,
    "swin of torchvision": lambda: torchvision.models.SwinTransformer(
        [4, 4], 16, [1, 1], [2, 4], [4, 4], num_classes=9
    ),
    "mixer": lambda: timm.models.mlp_mixer.MlpMixer(9, 32, patch_size=8, num_blocks=2, embed_dim=32),
    "standardised": lambda: timm.models.resnetv2.ResNetV2(
        [1, 1], [128, 128], 9, stem_chs=32, stem_type="fixed", conv_layer=timm.layers.StdConv2d
    ),
}


def of_weights(model, images, batched_products=False):
    """Torch's count, without the products of features with features."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(images)
    flops = counter.get_flop_counts()["Global"]
    names = [str(key) for key in flops]
    left_out = () if batched_products else ("bmm", "attention")
    return sum(flop for name, flop in zip(names, flops.values(), strict=True) if not any(x in name for x in left_out))


def test_products_are_those_that_torch_counts():
    names = {kind.__name__: _is_product(kind) for kind in flop_registry}
    left_out = {name for name, is_product in names.items() if not is_product}
    assert left_out == {name for name in names if "backward" in name or name == "flex_attention"}


@pytest.mark.parametrize("name", [*FAMILIES, *CLASSES])
def test_families_have_the_macs_that_torch_counts(name):
    torch.manual_seed(0)
    size = 64 if "swin" in name else 32
    model = CLASSES[name]() if name in CLASSES else timm.create_model(name, num_classes=9, **FAMILIES[name])
    for layer in weight_layers(model):  # some begin with zeros
        layer.weight.data.uniform_(0.1, 0.2)
    images = torch.zeros(2, 3, size, size)
    uses, layers = weight_uses(model, images), weight_layers(model)
    assert not [layer.name for layer in layers if layer.name not in uses]
    found = count(model, layers, [1.0] * len(layers), False, uses, (3, size, size))
    # Of a table of positions, which is computed once a batch, an image has its share, rounded down.
    assert 2 * 2 * found["macs_dense"] == pytest.approx(of_weights(model, images), rel=2e-3 if "swinv2" in name else 0)
    assert found["macs_sparse"] == found["macs_dense"]  # nothing was pruned
    assert found["params_sparse"] == found["params_nonzero"]


class Handed(nn.Module):
    """Hands one layer's weight to a function."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return self.call(x, self.layer.weight)


LINEAR, CONV = nn.Linear(8, 6), nn.Conv2d(8, 6, 3, groups=2)
WAYS = {
    "linear": (LINEAR, lambda x, w: F.linear(input=x, weight=w)),
    "matmul": (LINEAR, lambda x, w: torch.matmul(x, w.t())),
    "at": (LINEAR, lambda x, w: x @ w.mT),
    "matmul of columns": (LINEAR, lambda x, w: torch.matmul(w, x.transpose(1, 2))),
    "einsum": (LINEAR, lambda x, w: torch.einsum("bnc,oc->bno", x, w)),
    "einsum of columns": (LINEAR, lambda x, w: torch.einsum("oc,bnc->bon", w, x)),
    "addmm": (LINEAR, lambda x, w: torch.addmm(x.flatten(0, 1)[:, :6], x.flatten(0, 1), w.t())),
    "bmm": (LINEAR, lambda x, w: torch.bmm(x, w.t().expand(len(x), -1, -1))),
    "baddbmm": (LINEAR, lambda x, w: torch.baddbmm(x[..., :6], x, w.t().expand(len(x), -1, -1))),
    "in two parts": (LINEAR, lambda x, w: torch.cat([F.linear(x, part) for part in w.chunk(2)], -1)),
    "as a copy": (LINEAR, lambda x, w: F.linear(x, (2 * w).reshape(3, 16).clone().view(6, 8))),
    "conv2d": (CONV, lambda x, w: F.conv2d(input=x, weight=w, groups=2)),
    "conv1d": (LINEAR, lambda x, w: F.conv1d(weight=w[:, :, None], input=x.transpose(1, 2))),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_hand_a_weight_over_is_seen(way):
    layer, call = WAYS[way]
    model = Handed(layer, call)
    images = torch.randn(2, 8, 5, 5) if layer is CONV else torch.randn(2, 9, 8)
    assert weight_uses(model, images) == {"layer": 9}


def test_a_computed_weight_is_its_layer_and_tied_layers_are_told_apart():
    model = nn.Sequential(normed.weight_norm(nn.Linear(4, 4)), normed.spectral_norm(nn.Linear(4, 4)))
    assert weight_uses(model, torch.randn(2, 3, 4)) == {"0": 3, "1": 3}
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv1d(3, 2, 1))
    tied[1].weight = tied[0].weight
    assert weight_uses(tied, torch.randn(2, 3, 4)) == {"0": 3, "1": 3, "2": 4}


def test_attention_of_other_lengths_is_counted_by_what_each_projection_reads():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x[:, :2], x, x)[0]

    uses = weight_uses(Cross(), torch.randn(2, 8, 8))
    assert uses == {"attention.in_proj_weight": (2 + 8 + 8) // 3, "attention.out_proj": 2}


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(8, 6, num_layers=2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_counted_step_by_step(kind):
    model = Recurrent(kind)
    uses = weight_uses(model, torch.randn(2, 5, 8))
    assert uses == {f"rnn.weight_{part}_l{layer}": 5 for layer in (0, 1) for part in ("ih", "hh")} | {"head": 1}
    found = count(model, weight_layers(model), [1.0], False, uses, (5, 8))
    assert (
        found["macs_dense"]
        == found["macs_sparse"]
        == 5 * sum(p.numel() for p in model.rnn.parameters() if p.dim() > 1) + 18
    )


def test_transposed_convolutions_and_mixtures_of_weights_are_counted():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2), nn.Conv2d(4, 2, 1))
    images = torch.randn(2, 3, 6, 6)
    uses = weight_uses(model, images)
    assert uses["1"] == 16  # once for each position that it reads
    found = count(model, weight_layers(model), [1.0] * 2, False, uses, (3, 6, 6))
    assert 4 * found["macs_dense"] == of_weights(model, images)

    model = timm.create_model("tf_efficientnet_cc_b0_4e", num_classes=10)  # four experts, mixed for each image
    images = torch.zeros(2, 3, 32, 32)
    uses = weight_uses(model, images)
    found = count(model, weight_layers(model), [1.0] * len(weight_layers(model)), False, uses, (3, 32, 32))
    assert 4 * found["macs_dense"] == pytest.approx(of_weights(model, images, batched_products=True), rel=0.3)
