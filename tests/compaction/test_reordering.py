"""Channels that change places: what the network computes stays, in training too; what cannot be followed stays."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from midstate.compaction import Reordering
from midstate.compaction.exchangeable import exchangeable_channels
from midstate.compaction.reordering import fold
from midstate.models.cifar_resnet import ResNet
from midstate.sparsity import NM, weight_layers

SHAPE = (3, 32, 32)


def randomised(model):
    """Weights and statistics that are nowhere alike."""
    draws = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for each in (module.weight, module.bias, module.running_mean, module.running_var):
                each.data.copy_(torch.rand(each.shape, generator=draws) + 0.5)
    return model.eval()


def in_scope(model, m=4):
    return [layer for layer in weight_layers(model) if layer.weight.shape[1] % m == 0]


def cifar(shortcut="pad", blocks=1):
    torch.manual_seed(0)
    return randomised(ResNet([blocks] * 3, [16, 32, 64], shortcut, 3, 10))


class Net(nn.Module):
    def __init__(self, together, **layers):
        super().__init__()
        self.together = together
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, images):
        return self.together(self, images)


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", ["pad", "conv", "none"])
def test_a_resnet_computes_the_same_and_keeps_more(shortcut):
    model = cifar(shortcut, blocks=3)
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    before, layers = model(images), in_scope(model)
    names = {name: tensor.shape for name, tensor in model.state_dict().items()}
    reordering = Reordering(model, SHAPE, NM(2, 4, True, 30))
    reordering.check(layers)
    report = reordering.apply(layers)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == names
    assert report["after"] > 1.004 * report["before"]
    torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)


NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(width_mult=0.5, num_classes=10),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10),
    "resnext": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 10, groups=8, width_per_group=8
    ),
    "densenet": lambda: torchvision.models.DenseNet(12, (2, 2, 2, 2), 24, num_classes=10),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=2),
    "squeeze": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_any_order_leaves_what_other_networks_compute(name):
    torch.manual_seed(0)
    model = randomised(NETWORKS[name]())
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    before, first = model(images), copy.deepcopy(model.state_dict())
    groups = exchangeable_channels(model, SHAPE)
    for group in groups:
        fold(model, group, torch.randperm(len(group), generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    assert any(not torch.equal(first[key], value) for key, value in model.state_dict().items())
    read = {name for group in groups for name in group.reads}
    left = {layer.name for layer in in_scope(model)} - read
    assert left == set() if name != "vit" else all("fc2" not in each for each in left)


def test_a_residual_stream_has_one_order():
    groups = exchangeable_channels(cifar("conv", blocks=3), SHAPE)
    (stream,) = (group for group in groups if "conv1" in group.filters)
    assert set(stream.filters) == {"conv1", *(f"stages.0.{i}.conv2" for i in range(3))}
    assert {f"stages.0.{i}.conv1" for i in range(3)} < set(stream.reads)
    assert len(stream) == 16


def test_channels_of_a_grouped_convolution_stay_in_their_group():
    def together(net, x):
        return net.last(F.relu(net.grouped(F.relu(net.first(x)))).mean((2, 3)))

    model = Net(together, first=conv(3, 16), grouped=conv(16, 16, groups=2), last=nn.Linear(16, 4))
    groups = exchangeable_channels(model, SHAPE)
    assert [len(group) for group in groups] == [8, 8, 8, 8]
    for group in groups:
        for places in (*group.filters.values(), *group.reads.values()):
            assert len((places // 8).unique()) == 1


def test_what_depends_on_its_place_stays():
    def scaled(net, x):
        return net.last((net.first(x) * net.scale).mean((2, 3)))

    layers = {"first": conv(3, 16), "last": nn.Linear(16, 4)}
    assert not exchangeable_channels(Net(scaled, scale=nn.Parameter(torch.ones(16, 1, 1)), **layers), SHAPE)

    def added(net, x):
        return net.last(net.second(F.relu(net.first(x)).cumsum(1)).mean((2, 3)))

    assert not [
        g for g in exchangeable_channels(Net(added, second=conv(16, 16), **layers), SHAPE) if "first" in g.filters
    ]


def test_layers_that_share_a_weight_and_computed_weights_stay():
    def together(net, x):
        return net.last(net.third(net.second(net.first(x))).mean((2, 3)))

    model = Net(together, first=conv(3, 8), second=conv(8, 8), third=conv(8, 8), last=nn.Linear(8, 4))
    assert len(exchangeable_channels(model, SHAPE)) == 3
    normalised = copy.deepcopy(model)
    nn.utils.parametrizations.weight_norm(normalised.third)
    assert [set(group.filters) for group in exchangeable_channels(normalised, SHAPE)] == [{"first"}]
    model.third.weight = model.second.weight
    assert not exchangeable_channels(model, SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", [lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), lambda p: torch.optim.Adam(p, 1e-3)]
)
def test_momentum_and_averages_go_with_the_weights(optimizer):
    """A network trained on after the change computes what it would have computed without."""
    draws = torch.Generator().manual_seed(1)
    batches = [(torch.randn(8, *SHAPE, generator=draws).double(), torch.arange(8) % 10) for _ in range(4)]
    results = []
    for reorders in (False, True):
        model = cifar().double().train()
        average, steps = copy.deepcopy(model), optimizer(model.parameters())
        reordering = Reordering(model, SHAPE, NM(2, 4, True, 30))
        reordering.optimizers.append(steps)
        reordering.averages.append(average)
        for i, (images, labels) in enumerate(batches):
            if i == 2 and reorders:
                reordering.apply(in_scope(model))
            steps.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            steps.step()
        with torch.no_grad():
            results.append((model.eval()(batches[0][0]), average.eval()(batches[0][0])))
    for without, reordered in zip(*results, strict=True):
        torch.testing.assert_close(reordered, without, rtol=1e-7, atol=1e-7)


def test_state_of_another_shape_begins_anew(caplog):
    model = cifar()
    optimizer = torch.optim.Adafactor(model.parameters())
    F.cross_entropy(model(torch.randn(2, *SHAPE)), torch.tensor([0, 1])).backward()
    optimizer.step()
    reordering = Reordering(model, SHAPE, NM(2, 4, True, 10))
    reordering.optimizers.append(optimizer)
    reordering.apply(in_scope(model))
    assert "what Adafactor remembers of a weight" in caplog.text


def test_what_cannot_be_done_is_told():
    model = Net(lambda net, x: net.last(x.flatten(1)), last=nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(ValueError, match="permute=true: no layer in scope reads channels that may change places"):
        Reordering(model, SHAPE, NM(2, 4, True)).check(in_scope(model))
    branching = Net(lambda net, x: net.last(x if x.sum() > 0 else -x), last=conv(3, 4))
    with pytest.raises(ValueError, match="cannot trace it"):
        Reordering(branching, SHAPE, NM(2, 4, True))


def test_places_that_were_not_seen_to_count_are_found_out():
    class Weighed(nn.BatchNorm2d):  # taken for one that treats all channels alike
        def forward(self, x):
            return super().forward(x) * torch.arange(1, 1 + x.shape[1])[:, None, None]

    def together(net, x):
        return net.last(net.norm(net.first(x)).mean((2, 3)))

    model = Net(together, first=conv(3, 16), norm=Weighed(16), last=nn.Linear(16, 4))
    with pytest.raises(ValueError, match="Net treats some channels by their places"):
        Reordering(model, SHAPE, NM(2, 4, True))


def test_a_search_without_time_leaves_all_as_it_was(caplog):
    model = cifar()
    before = copy.deepcopy(model.state_dict())
    report = Reordering(model, SHAPE, NM(2, 4, True, 0)).apply(in_scope(model))
    assert not report["complete"]
    assert report["after"] == report["before"]
    assert "permute_seconds=0: the search for an order of channels was cut short" in caplog.text
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
