"""Weights that are zero, equal, tiny, huge or no numbers: what every method does with them."""

from functools import cache

import pytest
import torch
from conftest import ALONE, ROOT, composed
from torch import nn
from torch.nn import functional as F

from midstate.compaction.coupling import coupled_for
from midstate.runs.parts import build_parts
from midstate.sparsity import Filter, Pruner, Row, Sample, Schedule, Scope, Unrankable, Weight, block_nm_mask, nm_mask

# Network Slimming looks at no weights, see test_batchnorm.py.
ELSEWHERE = {"dense", "dense_small", "network_slimming"}
PRESETS = sorted({path.stem for path in (ROOT / "conf" / "pruner").glob("*.yaml")} - ELSEWHERE)
ALLOCATIONS = sorted(
    {path.stem for path in (ROOT / "conf" / "pruner" / "allocation").glob("*.yaml")}
    - {"scheme", "uniform_plus", "domino"}
)
METHODS = [(f"pruner={preset}", *ALONE.get(preset, ())) for preset in PRESETS]
SHORT = {"haq": ("pruner.episodes=3", "pruner.warmup=1"), "random_search": ("pruner.episodes=3",)}
METHODS += [
    (f"pruner={p}", f"pruner/allocation={a}", *SHORT.get(a, ()))
    for p in ("nm", "magnitude", "filter")
    for a in ALLOCATIONS
]
METHODS += [
    ("pruner=nm_mixed", f"pruner.score={score}") for score in ("hessian", "weight_error", "erk", "owl", "random")
]
METHODS += [("pruner=maxq", "pruner/estimator=constant_scale")]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )


def ties(weight):
    return weight.sign() * torch.randint(1, 3, weight.shape) / 10


WEIGHTS = {
    "a group of zeros": lambda weight: weight.index_fill(1, torch.arange(weight.shape[1] // 2), 0),
    "zero filters": lambda weight: weight.index_fill(0, torch.arange(0, len(weight), 2), 0),
    "constant": lambda weight: torch.full_like(weight, 0.01),
    "ties": ties,
    "denormals": lambda weight: weight * 1e-40,
}


@cache
def parts_of(overrides):
    """The axes have no state of their own: pruners may share them."""
    return build_parts(composed("logger=none", *overrides))


def attached(overrides, change):
    """A pruner on a network whose weights were changed before, and the images it looks at."""
    model, parts = network(), parts_of(overrides)
    with torch.no_grad():
        for weight in (module.weight for module in model if isinstance(module, nn.Conv2d | nn.Linear)):
            weight.copy_(change(weight))
    images = Sample(torch.randn(20, 1, 8, 8), torch.randint(0, 4, (20,)))
    sample = Sample(images.images, images.labels, tuning=images, held_out=images)
    schedule = Schedule(parts.schedule.curve, "2it", "8it")
    coupled = coupled_for(parts.method.pattern, model, (1, 8, 8))
    pruner = Pruner(model, parts.method, schedule, 5, 10, seed=0, classifier="7", sample=sample, coupled=coupled)
    return model, pruner, sample


def walked(overrides, change):
    """A pruner that has gone its way over ten steps."""
    model, pruner, sample = attached(overrides, change)
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)  # the weights stay as odd as they are
    for step in range(10):
        pruner.tick(step)
        loss = F.cross_entropy(model(sample.images), sample.labels)
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        pruner.before_step(optimizer)
        assert all(each.grad.isfinite().all() for each in model.parameters())
        optimizer.step()
        pruner.after_step(optimizer)
    pruner.refresh(10)
    return pruner


@pytest.mark.parametrize("overrides", METHODS, ids=" ".join)
def test_odd_weights_are_pruned_to_the_target_all_the_same(overrides):
    for name, change in WEIGHTS.items():
        pruner = walked(overrides, change)
        assert pruner.kept() == pytest.approx(pruner.targets()), name
        pruner.finalise()
        # At a rate of 0 LBC learns nothing: the first combination stays, here of zeros.
        assert pruner.verify() is not (overrides == ("pruner=lbc",) and name == "a group of zeros"), name


@pytest.mark.parametrize("overrides", METHODS, ids=" ".join)
def test_a_layer_without_a_weight_that_is_not_zero_counts_as_collapsed(overrides):
    pruner = walked(overrides, torch.zeros_like)
    assert pruner.kept() == pytest.approx(pruner.targets())
    pruner.finalise()
    assert pruner.verify() is False


@pytest.mark.parametrize("overrides", METHODS, ids=" ".join)
def test_no_numbers_are_refused_and_no_mask_is_set_by_them(overrides):
    def spoilt(weight):
        return weight.flatten().index_fill(0, torch.tensor([3]), torch.nan).view_as(weight)

    _, pruner, _ = attached(overrides, spoilt)
    with pytest.raises(Unrankable, match="NaN"):
        pruner.masks_at(1.0, 8)
    assert all(mask.all() for mask in pruner.masks)


def test_zeros_and_equal_weights_keep_the_lower_index():
    for weight in (torch.zeros(2, 8), torch.full((2, 8), -3.0), torch.full((2, 8), 1e-45)):
        assert nm_mask(weight, 1, 4).tolist() == [[True, False, False, False] * 2] * 2
        assert block_nm_mask(weight, 1, 4, 0.5).tolist() == [[True] * 8, [True, False, False, False] * 2]


def test_denormals_are_told_apart():
    weight = torch.tensor([[1e-45, 3e-45, 2.9e-39, 0.0]])  # multiples of the least float but the last
    assert nm_mask(weight, 2, 4).tolist() == [[False, True, True, False]]


def test_infinities_are_larger_than_all_and_nan_is_refused():
    assert nm_mask(torch.tensor([[1e38, -torch.inf, 3e38, 0.0]]), 1, 4).tolist() == [[False, True, False, False]]
    with pytest.raises(Unrankable, match="NaN"):
        nm_mask(torch.tensor([[1.0, torch.nan, 3.0, 0.0]]), 1, 4)


@pytest.mark.parametrize("pattern", [Weight(0.5), Row(0.5), Filter(0.5)])
def test_layers_without_a_weight_are_left_out_of_the_scope(pattern):
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 0, 1), nn.Conv2d(16, 32, 3), nn.Linear(0, 16))
    assert [layer.name for layer in Scope().resolve(model, None, pattern)] == ["2"]
    assert nm_mask(torch.empty(0, 16), 1, 16).shape == (0, 16)
