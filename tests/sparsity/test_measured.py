"""Gradients and the Fisher on the sample against what is written down by hand, finite differences, and real methods."""

import copy
import itertools

import pytest
import torch
from conftest import composed
from torch import nn
from torch.nn import functional as F

from midstate.sparsity import (
    L1,
    LAMP,
    NM,
    OBD,
    STE,
    Blocks,
    Budget,
    Combinations,
    Criterion,
    DenseGradient,
    Density,
    Direct,
    DropGrow,
    Filter,
    Global,
    Hard,
    LayerView,
    Method,
    Pruner,
    Row,
    Sample,
    Schedule,
    Scope,
    Soft,
    Taylor,
    Uniform,
    Update,
    Weight,
    weight_layers,
)
from midstate.sparsity.observe import fishers, gradients, input_norms, mean_loss

EVERYTHING = Scope(skip_first=False, skip_classifier=False)
IMAGES = torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
SAMPLE = Sample(IMAGES, LABELS)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


def attached(model, criterion, pattern, sample=SAMPLE, **axes):
    given = {"allocation": Uniform(), "path": Direct(), "update": Update(), "estimator": Hard(), **axes}
    scope = Scope(skip_first=False, skip_classifier=pattern.name == "filter")
    method = Method(scope, pattern, criterion, **given)
    return Pruner(model, method, Schedule("linear", 0, 0.5), 2, 8, seed=3, classifier="7", sample=sample)


def test_gradient_and_fisher_of_a_linear_layer_by_hand():
    """Of cross-entropy they are (softmax - label) x', image by image; its masks count in the softmax."""
    model = nn.Linear(3, 2, bias=False).double()
    images, labels = torch.randn(5, 3, dtype=torch.double), torch.tensor([0, 1, 1, 0, 1])
    mask = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    pruner = Pruner(
        model,
        Method(EVERYTHING, Weight(0.3), Taylor(), Uniform(), Direct(), Update(), Hard()),
        Schedule("linear", 0, 1), 1, 2, sample=Sample(images, labels),
    )  # fmt: skip
    hidden = pruner._weights[0].detach()
    pruner.set_masks([mask.bool()])
    error = F.softmax(images @ (hidden * mask).t(), 1) - F.one_hot(labels, 2)
    each = error[:, :, None] * images[:, None, :]
    (gradient,) = gradients(model, pruner.layers, Sample(images, labels))
    (fisher,) = fishers(model, pruner.layers, Sample(images, labels))
    torch.testing.assert_close(gradient, each.mean(0))
    torch.testing.assert_close(fisher, each.square().mean(0))
    (layer,) = pruner._network.views()
    torch.testing.assert_close(Taylor().score(layer, Weight(0.3)), (hidden * each.mean(0)).square())


def loss_of(model, images):
    model.eval()
    loss = F.cross_entropy(model(images), LABELS).item()
    model.train()
    return loss


@pytest.mark.parametrize("estimator", [Hard(), STE(), Soft()], ids=lambda e: type(e).__name__)
def test_gradient_is_the_slope_of_the_loss_under_the_masks_in_force(estimator):
    model, images = network().double(), IMAGES.double()
    pruner = attached(model, Taylor(), Weight(0.5), Sample(images, LABELS), estimator=estimator)
    pruner.refresh(4)
    for layer, parameter in zip(pruner._network.views(), pruner._weights, strict=True):
        assert 0 < layer.mask.float().mean() < 1
        gradient, flat = layer.gradient.flatten(), parameter.detach().view(-1)
        for i in layer.mask.flatten().nonzero().flatten()[:6].tolist():
            losses = []
            for change in (1e-5, -2e-5):
                flat[i] += change
                losses.append(loss_of(model, images))
            flat[i] += 1e-5
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(gradient[i].item(), abs=1e-6)
        # What is pruned has a gradient, too: that of the loss if it came back.
        assert gradient[~layer.mask.flatten()].any()


@pytest.mark.parametrize("criterion", [Taylor(), OBD()])
def test_frozen_layers_are_told_by_name(criterion):
    model = network()
    weight_layers(model)[1].weight.requires_grad_(False)
    name = weight_layers(model)[1].name
    with pytest.raises(ValueError, match=rf"\['{name}'\]: are frozen, and gradients are measured; leave them out"):
        attached(model, criterion, Weight(0.5))


def test_measuring_leaves_the_network_as_it_was():
    model = network()
    pruner = attached(model, Taylor(), Weight(0.5))
    pruner.refresh(4)
    F.cross_entropy(model(IMAGES), LABELS).backward()
    gradients_before = [parameter.grad.clone() for parameter in model.parameters()]
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for measure in (gradients, fishers):
        measure(model, pruner.layers, SAMPLE)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b.grad) for a, b in zip(gradients_before, model.parameters(), strict=True))


def test_a_frozen_batchnorm_stays_frozen():
    model = network()
    model[1].eval()
    pruner = attached(model, Taylor(), Weight(0.5))
    pruner.refresh(4)
    mean_loss(model, SAMPLE)
    assert [name for name, module in model.named_modules() if not module.training] == ["1"]


class Attending(nn.Module):
    """Passes inputs by name, or by position."""

    def __init__(self, by_name, kdim):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(4, 8, 1), nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=8)
        self.by_name, self.kdim = by_name, kdim

    def forward(self, x):
        x = (self.conv(input=x) if self.by_name else self.conv(x)).flatten(2).movedim(2, 0)
        given = {"key": x[..., : self.kdim], "value": x - 1}
        x, _ = self.attention(query=x, **given) if self.by_name else self.attention(x, *given.values())
        return self.fc(input=x.mean(0)) if self.by_name else self.fc(x.mean(0))


@pytest.mark.parametrize("kdim", [8, 4])
def test_inputs_are_seen_by_name_and_by_position(kdim):
    """With kdim=4 query, key and value have weights of their own."""
    found = []
    for by_name in (True, False):
        torch.manual_seed(0)
        model = Attending(by_name, kdim)
        layers = [layer for layer in weight_layers(model) if layer.name != "attention.out_proj"]  # is not called
        found.append(input_norms(model, layers, SAMPLE))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_measured_loss_that_fails_leaves_the_masks_as_they_were():
    model = network()
    pruner = attached(model, L1(), Weight(0.5), allocation=Budget("sensitivity"))

    def fail(*_):
        if not all(mask.all() for mask in pruner.masks):
            raise MemoryError

    model[7].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        pruner.refresh(4)
    assert all(mask.all() for mask in pruner.masks)


def test_scores_are_pooled_as_the_pattern_says():
    weight = torch.tensor([[3.0, -4.0], [1.0, 1.0]])
    gradient, fisher = torch.tensor([[1.0, 0.5], [-2.0, 0.0]]), torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    layer = LayerView(weight, measure={"gradient": lambda: gradient, "fisher": lambda: fisher})
    assert Taylor().score(layer, NM(1, 2)).tolist() == [[9, 4], [4, 0]]
    assert Taylor().score(layer, Filter(0.5)).tolist() == [13, 4]
    assert OBD().score(layer, Row(0.5)).tolist() == [[18, 16], [0, 3]]
    assert OBD().score(layer, Filter(0.5)).tolist() == [34, 3]


PRODUCTS = [
    *itertools.product([Weight(0.5), Row(0.5), Filter(0.5)], [Density(), Direct()]),
    *itertools.product([NM(2, 4)], [Blocks(), Combinations(), Direct()]),
]


@pytest.mark.parametrize("criterion", [Taylor(), OBD()], ids=["taylor", "obd"])
@pytest.mark.parametrize(("pattern", "path"), PRODUCTS, ids=lambda each: type(each).__name__)
def test_every_pattern_path_and_allocation_takes_them(criterion, pattern, path):
    for allocation in (Uniform(), Global(), LAMP(), Budget("sensitivity")):
        pruner = walk(attached(network(), criterion, pattern, allocation=allocation, path=path))
        assert pruner.verify(), allocation


@pytest.mark.parametrize("criterion", [Taylor(), OBD()], ids=["taylor", "obd"])
def test_drop_and_grow_takes_them(criterion):
    update = DropGrow(every="1it", initial="criterion")
    pruner = attached(network(), criterion, Weight(0.5), update=update, estimator=DenseGradient())
    assert walk(pruner).verify()


def walk(pruner):
    model = pruner._network.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(8):
        pruner.tick(step)
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        pruner.before_step(optimizer, step)
        optimizer.step()
        pruner.after_step(optimizer)
    pruner.refresh(8)
    pruner.finalise()
    return pruner


@pytest.mark.parametrize(
    ("overrides", "every"),
    [
        (["pruner=nm"], "1it"),
        (["pruner=nm", "pruner/criterion=taylor"], "100it"),
        (["pruner=nm", "pruner/criterion=obd"], "1ep"),
        (["pruner=nm", "pruner/criterion=obd", "pruner.every=7it"], "7it"),
        (["pruner=sfp", "pruner/criterion=taylor"], "1ep"),  # the preset's own
    ],
)
def test_what_is_dear_to_measure_brings_an_interval(overrides, every):
    assert composed(*overrides).pruner["update"]["every"] == every


class Lazy(Criterion):
    def score(self, layer, pattern):
        return pattern.pool((layer.weight * layer.gradient).abs())


def test_a_need_is_said_and_there_must_be_images_for_it():
    with pytest.raises(ValueError, match=r"layer\.gradient: nothing was measured; .* needs = \('gradient',\)"):
        Lazy().score(LayerView(torch.ones(2, 2)), Weight(0.5))
    with pytest.raises(ValueError, match="measures on training images; give the pruner a sample"):
        attached(network(), Taylor(), Weight(0.5), sample=None)


@pytest.mark.parametrize("needs", [("gradients",), "gradient", ["gradient"], ("gradient", 3)], ids=str)
def test_needs_that_do_not_exist_are_refused_when_the_method_is_built(needs):
    member = type("Mine", (Lazy,), {"needs": needs})()
    with pytest.raises(ValueError, match=r"criterion=Mine: needs=.*: must be a tuple of names among gradient"):
        attached(network(), member, Weight(0.5))


@pytest.mark.parametrize("axis", ["pattern", "criterion", "allocation", "path", "update", "estimator"])
def test_members_without_their_methods_are_refused_when_the_method_is_built(axis):
    axes = {"pattern": Weight(0.5), "criterion": Taylor(), "allocation": Uniform(), "path": Direct()}
    axes |= {"update": Update(), "estimator": Hard()}
    bare = type("Mine", (type(axes[axis]).__mro__[1],), {})()
    with pytest.raises(ValueError, match=rf"{axis}=Mine: has no method"):
        Method(EVERYTHING, **{**axes, axis: bare})


class Undeclared(Criterion):
    """Looks at more than it says."""

    needs = ("gradient",)

    def score(self, layer, pattern):
        return pattern.pool(layer.gradient.abs() * layer.fisher)


def test_what_a_criterion_looks_at_without_needing_it_is_told_before_training():
    model = network()
    with pytest.raises(ValueError, match=r"Undeclared: looks at layer.fisher, .* needs = \('gradient', 'fisher'\)"):
        attached(model, Undeclared(), Weight(0.5))
    assert isinstance(model[0].weight, nn.Parameter)  # nothing is attached
