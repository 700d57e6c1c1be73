"""Counts by hand, and against the figures papers quote."""

import pytest
import torch
import torchvision
from torch import nn

from midstate.compaction import counting
from midstate.models import CifarResNet
from midstate.sparsity import weight_layers


def counted(model, layers, shape, densities=None, by_filter=False):
    uses = counting.weight_uses(model, torch.zeros(2, *shape))
    return counting.count(model, layers, densities or [1.0] * len(layers), by_filter, uses, shape)


def test_counts_by_hand():
    second = nn.Conv2d(4, 4, 3, groups=2, stride=2, padding=1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), second, nn.Flatten(), nn.Linear(16, 5))
    assert counting.weight_uses(model, torch.zeros(3, 2, 4, 4)) == {"0": 16, "1": 4, "3": 1}
    second.weight.data[:, 0] = 0  # half of 72 weights
    found = counted(model, [weight_layers(model)[1]], (2, 4, 4), [0.5])
    assert found["params_total"] == 72 + 4 + 72 + 4 + 80 + 5
    assert found["params_prunable"] == 72
    assert found["params_nonzero"] == found["params_sparse"] == found["params_total"] - 36
    assert found["sparsity"] == 0.5
    assert found["sparsity_total"] == 36 / found["params_total"]
    assert found["macs_dense"] == 72 * 16 + 72 * 4 + 80
    assert found["macs_sparse"] == found["macs_nominal"] == 72 * 16 + 36 * 4 + 80


def test_attention_is_counted_with_both_projections():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    uses = counting.weight_uses(layer, torch.zeros(2, 5, 8))
    assert uses == {"self_attn.in_proj_weight": 5, "self_attn.out_proj": 5, "linear1": 5, "linear2": 5}
    assert counting.count(layer, weight_layers(layer), [1.0] * 4, False, uses, (5, 8))["macs_sparse"] == 5 * 8 * (
        24 + 8 + 16 + 16
    )


class Chain(nn.Module):
    """conv 1->4, BN, conv 4->4 depthwise, conv 4->2, linear 2->3."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.b, self.head = nn.Conv2d(4, 2, 1), nn.Linear(2, 3)

    def forward(self, x):
        x = self.depthwise(torch.relu(self.norm(self.a(x))))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


def test_channels_that_an_earlier_layer_no_longer_delivers_are_credited():
    model = Chain()
    model.norm.bias.data.fill_(1.0)
    model.a.weight.data[1] = 0  # its bias and BatchNorm still give a constant, which can be folded
    alive = counting.alive_inputs(model, (1, 2, 2))
    assert {name: reached.int().tolist() for name, reached in alive.items()} == {
        "a": [1],
        "norm": [1, 0, 1, 1],
        "depthwise": [1, 0, 1, 1],
        "b": [1, 0, 1, 1],
        "head": [1, 1],
    }
    found = counted(model, [weight_layers(model)[0]], (1, 2, 2), [0.75], by_filter=True)
    weights = (3 * 1 + 3 * 9 + 2 * 3) * 4 + 6
    assert found["macs_sparse"] == weights
    assert found["params_sparse"] == (3 + 3) + 2 * 3 + 27 + (6 + 2) + (6 + 3)
    # Nominally: a at 3/4, and the depthwise one and b, which read a alone, at 3/4 of their inputs.
    assert found["macs_nominal"] == 0.75 * (4 + 36 + 8) * 4 + 6


class Join(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.after = (nn.Conv2d(2, 2, 1, bias=False) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        return self.after(x + self.branch(x))


def test_a_sum_is_dead_only_where_all_its_terms_are():
    model = Join()
    model.stem.weight.data[0] = 0
    assert counting.alive_inputs(model, (2, 3, 3))["after"].tolist() == [True, True]
    model.branch.weight.data[0] = 0
    assert counting.alive_inputs(model, (2, 3, 3))["after"].tolist() == [False, True]
    assert counting.fed_by(model, weight_layers(model), (2, 3, 3)) == {"branch": "stem"}


def test_dead_channels_are_really_constant():
    """Two images that differ give the same values in exactly the channels called dead."""
    torch.manual_seed(0)
    model = CifarResNet([1, 1], [8, 16], "pad").create(3, 10).eval()
    for layer in weight_layers(model)[:-1]:
        layer.weight.data[torch.rand(len(layer.weight)) < 0.5] = 0
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.bias.data.uniform_(0.1, 1)
    alive = counting.alive_inputs(model, (3, 8, 8))
    seen = {}
    for layer in weight_layers(model):
        layer.module.register_forward_pre_hook(lambda _, inputs, name=layer.name: seen.update({name: inputs[0]}))
    model(torch.randn(2, 3, 8, 8) * 3)
    for name, features in seen.items():
        differs = (features[0] != features[1]).flatten(1).any(1) if features.dim() == 4 else features[0] != features[1]
        assert not (differs & ~alive[name]).any(), name  # dead: never differs
        assert not alive[name].all() or name in ("conv1",), name


# SFP, table of FLOPs reductions for CIFAR-10, and those of the integer counts its code really prunes, in percent.
PUBLISHED = {
    (3, 0.1): (15.2, None),
    (3, 0.2): (29.3, None),
    (3, 0.3): (42.2, 39.0),
    (3, 0.4): (54.0, 51.7),
    (5, 0.1): (14.9, None),
    (5, 0.2): (28.8, None),
    (5, 0.3): (41.5, 38.4),
    (5, 0.4): (53.2, 50.9),
    (9, 0.1): (14.7, None),
    (9, 0.2): (28.4, None),
    (9, 0.3): (41.1, 38.0),
    (9, 0.4): (52.6, 50.4),
    (18, 0.1): (14.6, None),
    (18, 0.2): (28.2, None),
    (18, 0.3): (40.8, 37.8),
    (18, 0.4): (52.3, 50.1),
}


@pytest.mark.parametrize(
    "blocks", [3, 5, 9, pytest.param(18, marks=pytest.mark.slow)], ids=lambda n: f"resnet{6 * n + 2}"
)
def test_published_reductions_of_soft_filter_pruning(blocks):
    for (depth, sparsity), (nominal, exact) in PUBLISHED.items():
        if depth != blocks:
            continue
        model = CifarResNet([blocks] * 3, [16, 32, 64], "pad").create(3, 10)
        layers = weight_layers(model)[:-1]
        for layer in layers:
            out = len(layer.weight)
            gone = int(sparsity * out + 1e-9)
            # The residual stream stays alive, as the published count takes it: second convolutions lose channels
            # that the stem (first stage) or the padded shortcut (the middle ones) carries.
            start = 0 if not layer.name.endswith("conv2") else out - gone if out == 16 else (out - gone) // 2
            layer.weight.data[start : start + gone] = 0
        found = counted(model, layers, (3, 32, 32), [1 - sparsity] * len(layers), by_filter=True)
        assert 100 * (1 - found["macs_nominal"] / found["macs_dense"]) == pytest.approx(nominal, abs=0.06)
        if exact:
            assert 100 * (1 - found["macs_sparse"] / found["macs_dense"]) == pytest.approx(exact, abs=0.06)


class Twice(nn.Module):
    """One convolution reads two branches, one of them dead."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.c, self.head = nn.Conv2d(4, 4, 1, bias=False), nn.Linear(8, 2)

    def forward(self, x):
        branches = [self.c(torch.relu(branch(x))) for branch in (self.a, self.b)]
        return self.head(torch.cat(branches, 1).mean((2, 3)))


def test_a_module_called_twice_lives_if_either_call_does():
    model = Twice()
    model.b.weight.data.zero_()
    assert counting.weight_uses(model, torch.zeros(1, 3, 2, 2))["c"] == 8
    assert counting.alive_inputs(model, (3, 2, 2))["c"].all()


def test_weights_handed_to_a_function_are_counted():
    """torchvision's Swin calls its attention's layers as functions; the reference intercepts those calls apart."""
    model = torchvision.models.swin_t(num_classes=10)
    uses = counting.weight_uses(model, torch.zeros(2, 3, 64, 64))
    layers = weight_layers(model)
    assert {layer.name for layer in layers} == set(uses)
    assert uses["features.1.0.attn.qkv"] == uses["features.1.0.attn.proj"]
    assert uses["features.1.0.attn.qkv"] >= uses["features.1.0.mlp.0"] == 256


class Viewing(nn.Module):
    """Takes a view of a convolution's output, which must then lie in memory as convolutions leave it."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 1), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.conv(x).view(len(x), -1))


def test_views_of_features_are_followed():
    model = Viewing()
    model.conv.weight.data[0] = 0
    assert counting.alive_inputs(model, (1, 2, 2))["head"].tolist() == [False] * 4 + [True] * 4


def test_half_precision_and_transposed_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2), nn.Flatten(), nn.Linear(16, 2)).bfloat16()
    layers = weight_layers(model)
    assert [layer.name for layer in layers] == ["0", "3"]  # input channels of transposed ones are dim 0: left out
    assert counting.alive_inputs(model, (3, 3, 3))["3"].all()
