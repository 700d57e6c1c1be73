"""Which filters go together, by hand for tiny networks; and what is left when they are cut out."""

import pytest
import timm
import torch
import torchvision
from test_extraction import assert_counts, assert_same, used
from torch import nn
from torch.nn import functional as F

from midstate.compaction import coupled_channels
from midstate.compaction.extracting import extract
from midstate.models import classifier_names
from midstate.sparsity import (
    L1,
    LAMP,
    STE,
    Channel,
    Density,
    Direct,
    Fade,
    GeometricMedian,
    Global,
    Hard,
    HardChannels,
    Method,
    Pruner,
    Random,
    Sample,
    Schedule,
    Scope,
    Soft,
    Taylor,
    Uniform,
    Update,
)  # fmt: skip

SHAPE = (3, 8, 8)
CHANNELS = Scope(skip_first=False, skip_depthwise=False)


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Net(nn.Module):
    """Layers by name, and how they are put together."""

    def __init__(self, together, **layers):
        super().__init__()
        self.together = together
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.together(self, x)


def head(features, layer):
    return layer(features.mean((2, 3)))


def residual():
    def together(net, x):
        x = net.first(x)
        return head(x + net.b(F.relu(net.a(x))), net.last)

    return Net(together, first=conv(3, 6), a=conv(6, 4), b=conv(4, 6), last=nn.Linear(6, 2))


def concat():
    def together(net, x):
        return head(net.c(torch.cat([net.a(x), net.b(x)], 1)) + net.d(x), net.last)

    return Net(together, a=conv(3, 4), b=conv(3, 5), c=conv(9, 6), d=conv(3, 6), last=nn.Linear(6, 2))


def depthwise():
    def together(net, x):
        return head(net.c(net.b(net.a(x))), net.last)

    return Net(together, a=conv(3, 4), b=conv(4, 8, groups=4), c=conv(8, 5), last=nn.Linear(5, 2))


def grouped():
    def together(net, x):
        return head(net.c(net.b(net.a(x))), net.last)

    return Net(together, a=conv(3, 6), b=conv(6, 8, groups=2), c=conv(8, 5), last=nn.Linear(5, 2))


def excited():
    def together(net, x):
        x = net.a(x)
        return head(x * torch.sigmoid(net.c(F.relu(net.b(x.mean((2, 3), keepdim=True))))), net.last)

    return Net(together, a=conv(3, 6), b=nn.Conv2d(6, 4, 1), c=nn.Conv2d(4, 6, 1), last=nn.Linear(6, 2))


def padded():
    """A shortcut that adds channels of zeros: four of eight are the first layer's."""

    def together(net, x):
        x = net.first(x)
        return head(net.b(x) + F.pad(x, (0, 0, 0, 0, 2, 2)), net.last)

    return Net(together, first=conv(3, 4), b=conv(4, 8), last=nn.Linear(8, 2))


def flattened():
    return Net(
        lambda net, x: net.last(net.b(net.a(x).flatten(1))), a=conv(3, 4), b=nn.Linear(256, 6), last=nn.Linear(6, 2)
    )


def normalised():
    def together(net, x):
        return head(F.layer_norm(net.b(net.a(x)), (6, 8, 8)), net.last)

    return Net(together, a=conv(3, 4), b=conv(4, 6), last=nn.Linear(6, 2))


def split():
    """A half goes on, and the other half is read by a layer."""

    def together(net, x):
        one, other = net.a(x).chunk(2, 1)
        return head(one + net.b(other), net.last)

    return Net(together, a=conv(3, 8), b=conv(4, 4), last=nn.Linear(4, 2))


def deepened():
    """A block that torchvision's stochastic depth leaves out at times; it is known by its name alone."""

    def together(net, x):
        x = net.first(x)
        return head(x + torchvision.ops.stochastic_depth(net.a(x), 0.1, "row", net.training), net.last)

    return Net(together, first=conv(3, 6), a=conv(6, 6), last=nn.Linear(6, 2))


def groups_of(model):
    """Filters by channel, block by block: what `filters` has, without tensors."""
    return [
        {name: at.squeeze(-1).squeeze(-1).tolist() for name, at in each.filters.items()}
        for each in coupled_channels(model, SHAPE)
    ]


def numbered(*counts):
    return list(range(*counts))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (residual, [{"first": numbered(6), "b": numbered(6)}, {"a": numbered(4)}]),
        (concat, [{"a": numbered(4)}, {"b": numbered(5)}, {"c": numbered(6), "d": numbered(6)}]),
        (depthwise, [{"a": numbered(4), "b": [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]}, {"c": numbered(5)}]),
        (grouped, [{"a": [[0, 3], [1, 4], [2, 5]]}, {"b": [[0, 4], [1, 5], [2, 6], [3, 7]]}, {"c": numbered(5)}]),
        (excited, [{"a": numbered(6), "c": numbered(6)}, {"b": numbered(4)}]),
        (padded, [{"first": numbered(4), "b": numbered(2, 6)}, {"b": [0, 1, 6, 7]}]),
        (flattened, [{"a": numbered(4)}, {"b": numbered(6)}]),
        (normalised, [{"a": numbered(4)}]),
        (deepened, [{"first": numbered(6), "a": numbered(6)}]),
        (split, [{"a": numbered(4), "b": numbered(4)}, {"a": numbered(4, 8)}]),
    ],
)
def test_groups(make, expected):
    assert sorted(groups_of(make()), key=str) == sorted(expected, key=str)


def pruned(model, shape=SHAPE, sparsity=0.5, allocation=None, scope=CHANNELS, **options):
    """Pruned at once, and finalised; and the masks that were in force."""
    pattern = Channel(sparsity, **options)
    method = Method(scope, pattern, L1(), allocation or Uniform(), Direct(), Update(), Hard())
    coupled = coupled_channels(model, shape, pattern.heads)
    heads = classifier_names(model) or "last"
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 1, 1, classifier=heads, coupled=coupled)
    pruner.refresh(0)
    masks = {layer.name: mask.flatten(1).clone() for layer, mask in zip(pruner.layers, pruner.masks, strict=True)}
    assert all((mask == mask[:, :1]).all() for mask in masks.values())
    pruner.finalise()
    assert pruner.verify()
    return pruner, {name: mask[:, 0] for name, mask in masks.items()}


def test_all_filters_of_a_channel_have_one_mask():
    _, masks = pruned(used(residual()))
    assert masks["first"].equal(masks["b"])
    assert masks["first"].sum() == 3
    _, masks = pruned(used(depthwise()))
    assert masks["b"].equal(masks["a"].repeat_interleave(2))
    _, masks = pruned(used(padded()))
    assert masks["first"].equal(masks["b"][2:6])
    assert (masks["first"].sum(), masks["b"].sum()) == (2, 4)


def test_the_groups_of_a_convolution_lose_as_many():
    model = used(grouped())
    _, masks = pruned(model, sparsity=0.4)
    assert masks["a"].view(2, 3).sum(1).tolist() == [1, 1]  # floor(0.6 * 3)
    assert masks["b"].view(2, 4).sum(1).tolist() == [2, 2]
    small = extract(model, SHAPE)
    assert (small.b.in_channels, small.b.out_channels, small.b.groups) == (2, 4, 2)
    assert small.b.weight.count_nonzero() == small.b.weight.numel()
    assert_same(model, small, SHAPE)


def test_within_a_block_the_smallest_go():
    model = grouped()
    model.a.weight.data = torch.tensor([3.0, 1, 2, 6, 5, 4]).view(6, 1, 1, 1) * torch.ones_like(model.a.weight)
    _, masks = pruned(model, sparsity=0.3)
    assert masks["a"].tolist() == [True, False, True, True, True, False]


@pytest.mark.parametrize(("combine", "gone"), [("mean", 0), ("sum", 0), ("max", 1)])
def test_scores_are_combined_over_their_layers_mean(combine, gone):
    model = residual()
    first, b = [0.7, 0.95, 1.2, 1, 1, 1.15], [1.1, 0.95, 1, 1, 1, 0.95]  # mean 1 each; the scale does not count
    for layer, scores, scale in ((model.first, first, 1), (model.b, b, 100)):
        layer.weight.data = scale * torch.tensor(scores).view(6, 1, 1, 1) * torch.ones_like(layer.weight)
    _, masks = pruned(model, sparsity=1 / 6, combine=combine)
    assert (~masks["first"]).nonzero().flatten().tolist() == [gone]


def test_what_is_out_of_scope_keeps_its_channels():
    scope = Scope(skip_first=False, skip_depthwise=False, exclude=("b",))
    pruner, masks = pruned(used(residual()), scope=scope)
    assert [layer.name for layer in pruner.layers] == ["a"]
    assert masks["a"].sum() == 2
    with pytest.raises(ValueError, match="pattern=channel: no channel of"):
        pruned(used(residual()), scope=Scope(skip_first=False, skip_depthwise=False, exclude=("a", "b")))


def test_groups_have_to_be_given():
    method = Method(CHANNELS, Channel(0.5), L1(), Uniform(), Direct(), Update(), Hard())
    with pytest.raises(ValueError, match=r"is found by midstate\.compaction\.coupled_channels"):
        Pruner(residual(), method, Schedule("one_shot", 0, 0), 1, 1, classifier="last")


@pytest.mark.parametrize("make", [residual, concat, depthwise, grouped, excited, padded, flattened, normalised, split])
@pytest.mark.parametrize("allocation", [Uniform(), Global(normalise="mean"), Global(budget="units")])
def test_cut_out_they_leave_no_zero_and_the_same_outputs(make, allocation):
    model = used(make())
    _, masks = pruned(model, allocation=allocation)
    small = extract(model, SHAPE)
    for name, mask in masks.items():
        weight = small.get_submodule(name).weight
        assert len(weight) == mask.sum()
        assert weight.count_nonzero() == weight.numel()
    assert_same(model, small, SHAPE, 1e-5)


def test_global_meets_the_uniform_budget_in_weights_of_whole_channels():
    model = used(residual())
    pruner, masks = pruned(model, allocation=Global())
    kept = 27 * masks["first"].sum() + 36 * masks["b"].sum() + 54 * masks["a"].sum()
    assert kept <= (27 + 36) * 3 + 54 * 2
    assert pruner.targets() == pytest.approx([float(mask.float().mean()) for mask in masks.values()])


@pytest.mark.parametrize(
    "axes",
    [
        (Taylor(), Uniform(), Density(), Update(), Hard()),
        (GeometricMedian(0.5), Uniform(), Density(), Update(regrow="never"), HardChannels()),
        (L1(), Global("mean"), Density(), Update(regrow="never"), Soft()),
        (L1(), LAMP(refresh="once"), Density(), Update(hysteresis=0.5), STE()),
        (Random(), Uniform(), Fade(), Update(), STE()),
    ],
)
def test_other_axes_are_those_of_filters(axes):
    """Four steps of training; every state on the way keeps what belongs together together."""
    model = used(grouped())
    sample = Sample(torch.randn(8, *SHAPE), torch.arange(8) % 2)
    method = Method(CHANNELS, Channel(0.5), *axes)
    coupled = coupled_channels(model, SHAPE)
    pruner = Pruner(model, method, Schedule("linear", 0, 0.75), 4, 4, classifier="last", sample=sample, coupled=coupled)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    kept = []
    for step in range(4):
        pruner.tick(step)
        optimizer.zero_grad()
        F.cross_entropy(model(sample.images), sample.labels).backward()
        pruner.before_step(optimizer, step)
        optimizer.step()
        pruner.after_step(optimizer)
        by_group = pruner.masks[1].flatten(1).all(1).view(2, 4).sum(1)
        assert by_group[0] == by_group[1]
        kept.append(int(by_group[0]))
    pruner.refresh(4)
    state = pruner.state_dict()
    assert len(state["levels"]) == 3
    pruner.finalise()
    assert pruner.verify()
    assert kept == sorted(kept, reverse=True)
    assert sum(each.numel() for each in extract(model, SHAPE).parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "params"),
    # what Torch-Pruning 1.6 leaves at a ratio of 0.3, the classifier's outputs kept
    [("resnet50", 12_935_549)],
)
def test_as_much_is_left_as_torch_pruning_leaves(name, params):
    shape = (3, 64, 64)
    model = used(getattr(torchvision.models, name)())
    total = sum(each.numel() for each in model.parameters())
    pruned(model, shape, sparsity=0.3)
    small = extract(model, shape)
    assert sum(each.numel() for each in small.parameters()) == params
    own = 2048 * 1000
    assert (params - 1433 * 1000) / (total - own) == pytest.approx(0.49, abs=0.005)  # but for the classifier
    assert_same(model, small, shape, 1e-5)


def test_hidden_channels_of_mlps_go_on_request():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4)
    scope = Scope(skip_first=False, skip_depthwise=False, skip_linear=False)
    pruner, _ = pruned(used(model), (3, 32, 32), scope=scope)
    assert [layer.name for layer in pruner.layers] == [f"blocks.{i}.mlp.fc1" for i in range(2)]
    small = extract(model, (3, 32, 32))
    assert small.blocks.get_submodule("0.mlp.fc2").in_features == 384
    assert_same(model, small, (3, 32, 32), 1e-5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("sparsity", [0.3, 0.6])
def test_heads_go_whole_on_request(sparsity, fused):
    model = used(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4))
    for block in model.blocks:
        block.attn.fused_attn = fused
    scope = Scope(skip_first=False, skip_depthwise=False, skip_linear=False)
    _, masks = pruned(model, (3, 32, 32), sparsity, scope=scope, heads=True)
    left = 2 if sparsity == 0.3 else 1  # of 3
    for i, block in enumerate(model.blocks):
        by_head = masks[f"blocks.{i}.attn.qkv"].view(3, 3, 64)  # queries, keys and values
        assert by_head.all(2).equal(by_head.any(2))
        assert by_head[:, :, 0].sum(1).tolist() == [left] * 3
        assert block.attn.num_heads == 3
    small = extract(model, (3, 32, 32))
    for i in range(2):
        assert small.blocks.get_submodule(f"{i}.attn.qkv").out_features == 3 * 64 * left
        assert small.blocks.get_submodule(f"{i}.attn.proj").in_features == 64 * left
        assert small.blocks.get_submodule(f"{i}.mlp.fc2").in_features == (537 if left == 2 else 307)
    assert_counts(model, small, (3, 32, 32))
    assert_same(model, small, (3, 32, 32), 1e-5)
    assert small.code.count(f", 3, {left}, 64)") == 2  # attention itself is narrower
