"""Network Slimming and its parts: the BatchNorms found, the penalty, one threshold over all layers, channels gone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from midstate.models import CifarResNet, Timm, Torchvision, classifier_names
from midstate.sparsity import (
    L1,
    NM,
    BatchNormL1,
    BatchNormScale,
    Direct,
    Filter,
    Global,
    Hard,
    HardChannels,
    Method,
    Pruner,
    Sample,
    Schedule,
    Scope,
    Unrankable,
    Update,
    Weight,
)  # fmt: skip
from midstate.sparsity.batchnorm import batchnorms_of

IMAGES = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
SAMPLE = Sample(IMAGES, LABELS)
FILTERS = Scope(skip_first=False, skip_shortcuts=True, skip_linear=True)


def network(bias=False):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, bias=bias), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 3)),
    )


def attached(model, sparsity=0.5, min_density=0.0, strength=0.1, estimator=None, start=0.5, regrow="never"):
    allocation = Global(refresh="once", min_density=min_density, budget="units")
    method = Method(
        FILTERS, Filter(sparsity), BatchNormScale(), allocation, Direct(), Update(regrow=regrow),
        estimator or HardChannels(), BatchNormL1(strength),
    )  # fmt: skip
    return Pruner(
        model,
        method,
        Schedule("one_shot", start, start),
        5,
        10,
        classifier="7" if hasattr(model, "7") else None,
        sample=SAMPLE,
    )


def set_gammas(model, *gammas):
    with torch.no_grad():
        for place, values in zip((1, 4), gammas, strict=True):
            model[place].weight.copy_(torch.tensor(values))


@pytest.mark.parametrize(
    ("recipe", "size", "count"),
    [
        (CifarResNet([3, 3, 3], [16, 32, 64], "pad"), 16, 19),
        (Torchvision("resnet50"), 32, 49),
        (Torchvision("mobilenet_v2"), 32, 35),
        (Timm("mobilenetv2_050"), 32, 35),  # whose norms hold their activation
    ],
)
def test_every_layer_of_known_networks_has_its_own(recipe, size, count):
    model = recipe.create(3, 10)
    layers = FILTERS.resolve(model, classifier_names(model), Filter(0.5))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    norms = batchnorms_of(model, layers, Sample(torch.randn(2, 3, size, size), torch.zeros(2)))
    assert len({id(norm) for norm in norms}) == len(layers) == count
    # In all of them a norm is written down right after the layer that it reads.
    modules = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    assert [modules[modules.index(layer.module) + 1] for layer in layers] == norms
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    random_after = torch.get_rng_state()
    assert not torch.equal(random, random_after)  # by the images above, and by nothing else:
    batchnorms_of(model, layers, Sample(torch.zeros(2, 3, size, size), torch.zeros(2)))
    assert torch.equal(torch.get_rng_state(), random_after)


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(input=self.conv(x))


def test_a_batchnorm_that_is_called_by_name_is_found():
    model = ByName()
    layers = FILTERS.resolve(model, None, Filter(0.5))
    assert batchnorms_of(model, layers, SAMPLE) == [model.norm]


class Twice(nn.Module):
    """Two convolutions that share a BatchNorm, and one that is read by two."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(1, 2, 3) for _ in range(3))
        self.shared, self.left, self.right = (nn.BatchNorm2d(2) for _ in range(3))

    def forward(self, x):
        third = self.three(x)
        return self.shared(self.one(x)) + self.shared(self.two(x)) + self.left(third) + self.right(third)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(2)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)),
        Twice(),
    ],
)
def test_what_reads_something_else_or_more_is_none_of_its_own(model):
    layers = FILTERS.resolve(model, None, Filter(0.5))
    assert batchnorms_of(model, layers, SAMPLE) == [None] * len(layers)


def gradients(model):
    """By the names that parameters have when nothing is attached."""
    plain = [
        (name.replace("parametrizations.", "").removesuffix(".original"), p) for name, p in model.named_parameters()
    ]
    return {name: parameter.grad for name, parameter in plain}


def test_the_penalty_by_hand():
    """Its sign, nothing at 0, once a step however many parts, and none from the cut on."""
    model = network()
    set_gammas(model, [0.5, -0.25, 0.0, 2.0], [1.0] * 6)
    plain = copy.deepcopy(model)
    pruner = attached(model, strength=0.1)
    for step, wanted in ((0, [0.1, -0.1, 0.0, 0.1]), (4, [0.1, -0.1, 0.0, 0.1]), (5, [0.0] * 4), (9, [0.0] * 4)):
        for each in (model, plain):
            each.zero_grad()
            for part in (IMAGES[:2], IMAGES[2:]):
                each(part).square().sum().backward()
        pruner.before_step(None, step)
        added = {name: gradient - plain.get_parameter(name).grad for name, gradient in gradients(model).items()}
        assert added.pop("1.weight").tolist() == pytest.approx(wanted, abs=1e-5)
        assert added.pop("4.weight").tolist() == pytest.approx([wanted[0]] * 6, abs=1e-5)
        assert not any(difference.any() for difference in added.values())


@pytest.mark.parametrize(
    ("gammas", "sparsity", "min_density", "kept"),
    [
        # 10 filters, floor(0.5 * 4) + floor(0.5 * 6) = 5 go; |gamma| counts.
        (([0.1, -0.9, 0.8, 0.2], [0.7, 0.3, -0.6, 0.05, 0.15, 0.5]), 0.5, 0.0, ([1, 2], [0, 2, 5])),
        # All five smallest lie in the second layer, and one of it stays beside the first's four.
        (([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), 0.5, 0.0, ([0, 1, 2, 3], [5])),
        # The first layer would be empty: it keeps one, and the second loses one more for it.
        (([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 0.5, 0.0, ([3], [2, 3, 4, 5])),
        # The floor of half a layer: 3 of 6, so that of the first only two stay.
        (([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), 0.5, 0.5, ([2, 3], [3, 4, 5])),
        # Equal ones: the earlier layer, the lower index.
        (([1.0] * 4, [1.0] * 6), 0.5, 0.0, ([0, 1, 2, 3], [0])),
    ],
)
def test_one_threshold_for_the_network_by_hand(gammas, sparsity, min_density, kept):
    model = network()
    set_gammas(model, *gammas)
    pruner = attached(model, sparsity, min_density)
    pruner.tick(5)
    assert [mask[:, 0, 0, 0].nonzero().flatten().tolist() for mask in pruner.masks] == [list(each) for each in kept]


def train(model, step, optimizer, before, after):
    optimizer.zero_grad()
    F.cross_entropy(model(IMAGES), LABELS).backward()
    before(step)
    optimizer.step()
    after()


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), 0.2, momentum=0.9, nesterov=True, weight_decay=0.05)


def pruned_by_hand(model):
    """Ten steps, written out: penalty, cut before the sixth, zeros put back after every step."""
    optimizer, pruned = optimizer_of(model), []

    def penalise(step):
        for norm in (model[1], model[4]):
            if step < 5:
                norm.weight.grad += 0.1 * torch.sign(norm.weight.data)

    def zero():
        for tensor, gone in pruned:
            tensor.data[gone] = 0
            optimizer.state[tensor]["momentum_buffer"][gone] = 0

    for step in range(10):
        if step == 5:
            scores = [(-abs(g), place, i) for place in (1, 4) for i, g in enumerate(model[place].weight.tolist())]
            for _, place, i in sorted(scores)[5:]:
                pruned += [(model[place - 1].weight, i), (model[place].weight, i), (model[place].bias, i)]
                pruned += [(model[place - 1].bias, i)] if model[place - 1].bias is not None else []
            zero()
        train(model, step, optimizer, penalise, zero)
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_the_whole_equals_a_slow_obvious_version(bias):
    model = network(bias)
    set_gammas(model, [0.5, 0.1, 0.6, 0.9], [0.2, 0.7, 0.3, 0.8, 0.4, 0.1])
    slow = pruned_by_hand(copy.deepcopy(model))
    pruner, optimizer = attached(model), optimizer_of(model)
    for step in range(10):
        pruner.tick(step)
        train(
            model,
            step,
            optimizer,
            lambda step: pruner.before_step(optimizer, step),
            lambda: pruner.after_step(optimizer),
        )
    pruner.finalise()
    assert pruner.verify()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in slow.named_parameters()]
    # Gamma's gradient at 0 moves nothing, and beta's must not.
    assert all(torch.equal(value, slow.state_dict()[name]) for name, value in model.state_dict().items())
    assert sum(int((norm.weight == 0).sum()) for norm in (model[1], model[4])) == 5


@pytest.mark.parametrize(
    "make",
    [optimizer_of, lambda model: torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)],
    ids=["sgd", "adamw"],
)
def test_a_pruned_channel_is_zero_in_training_and_after(make):
    """Momentum has built up on gamma and beta when they go."""
    model = network(bias=True)
    set_gammas(model, [0.5, 0.1, 0.6, 0.9], [0.2, 0.7, 0.3, 0.8, 0.4, 0.1])
    pruner, optimizer, seen = attached(model, strength=0.0), make(model), []
    for place in (1, 4):
        model[place].register_forward_hook(lambda _, inputs, output: seen.append(output.abs().amax((0, 2, 3)) > 0))
    for step in range(10):
        pruner.tick(step)
        seen.clear()
        train(
            model,
            step,
            optimizer,
            lambda step: pruner.before_step(optimizer, step),
            lambda: pruner.after_step(optimizer),
        )
        living = [mask[:, 0, 0, 0] for mask in pruner.masks]
        assert all(torch.equal(*pair) for pair in zip(seen, living, strict=True)), step
    pruner.finalise()
    model.eval()
    seen.clear()
    model(IMAGES)
    assert all(torch.equal(*pair) for pair in zip(seen, living, strict=True))
    assert not model[0].bias[~living[0]].any()


def test_hard_alone_leaves_a_constant_there():
    model = network()
    nn.init.constant_(model[1].bias, 0.5)
    pruner = attached(model, estimator=Hard())
    pruner.tick(5)
    pruner.finalise()
    assert model[:2](IMAGES).abs().amax((0, 2, 3)).gt(0).all()


def test_masks_of_probes_are_put_back_with_gamma_and_beta():
    model = network()
    set_gammas(model, [0.5, 0.1, 0.6, 0.9], [0.2, 0.7, 0.3, 0.8, 0.4, 0.1])
    pruner = attached(model)
    in_force = [mask.clone() for mask in pruner.masks]
    pruner.set_masks(pruner.masks_at(1.0, 5))
    assert model[1].weight.tolist() == pytest.approx([0.5, 0, 0.6, 0.9])
    pruner.set_masks(in_force)
    assert model[1].weight.tolist() == pytest.approx([0.5, 0.1, 0.6, 0.9])


def test_what_cannot_be_is_refused_before_training():
    bare = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten())
    with pytest.raises(ValueError, match=r"BatchNormScale needs a BatchNorm .*; 0 has none: exclude it"):
        attached(bare)
    method = attached(network()).method
    with pytest.raises(ValueError, match="give the pruner a sample"):
        Pruner(network(), method, Schedule("one_shot", 0.5, 0.5), 5, 10, classifier="7")
    axes = (Global(), Direct(), Update())
    with pytest.raises(ValueError, match="batchnorm_scale has one score a filter, and pattern=nm"):
        Method(FILTERS, NM(1, 4), BatchNormScale(), *axes, Hard())
    with pytest.raises(ValueError, match="hard_channels takes whole channels away, and pattern=weight"):
        Method(FILTERS, Weight(0.5), L1(), *axes, HardChannels())
    with pytest.raises(ValueError, match="batchnorm_l1 draws whole channels to zero, and pattern=nm"):
        Method(FILTERS, NM(1, 4), L1(), *axes, Hard(), BatchNormL1())
    with pytest.raises(ValueError, match="strength=-1"):
        BatchNormL1(-1)
    with pytest.raises(ValueError, match="missing; a method has all axes"):
        Method(FILTERS, penalty=BatchNormL1())


def test_gammas_that_are_no_numbers_are_refused():
    model = network()
    set_gammas(model, [0.5, float("nan"), 0.6, 0.9], [1.0] * 6)
    with pytest.raises(Unrankable, match="NaN"):
        attached(model).tick(5)
