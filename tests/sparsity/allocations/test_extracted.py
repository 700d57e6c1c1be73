"""The search for levels of filters whose extracted network has a given size, and how it is counted."""

import pytest
import torch
from torch import nn

from midstate.compaction import count, sizes_under_masks, weight_uses
from midstate.models import CifarResNet
from midstate.sparsity import (
    ERK,
    L2,
    LAMP,
    Collapsed,
    Direct,
    Filter,
    Global,
    Hard,
    Method,
    OutOfReach,
    Pruner,
    RandomShares,
    Reversed,
    Schedule,
    Scope,
    Uniform,
    Update,
    weight_layers,
)
from midstate.sparsity.allocations.extracted import allocate_extracted

SHAPE = (1, 12, 12)
ALLOCATIONS = [
    make(budget=f"extracted_{kind}", **more)
    for kind in ("params", "macs")
    for make, more in (
        (ERK, {}), (Reversed, {}), (RandomShares, {}), (Collapsed, {}),
        (LAMP, {"refresh": "once"}), (Global, {"refresh": "once", "normalise": "mean"}),
    )
]  # fmt: skip


def network(widths=(16, 32, 64), shortcut="conv", blocks=(1, 1, 1)):
    torch.manual_seed(0)
    return CifarResNet(list(blocks), list(widths), shortcut).create(SHAPE[0], 10)


def pruner_of(model, allocation, sparsity=0.6, **more):
    uses = weight_uses(model, torch.rand(2, *SHAPE))
    method = Method(Scope(skip_first=False), Filter(sparsity), L2(), allocation, Direct(), Update(), Hard())
    sizes = sizes_under_masks(model, uses, SHAPE)
    return Pruner(model, method, Schedule("linear", 0, 0.5), 10, 20, 7, "classifier", uses, **{"sizes": sizes, **more})


def finished(model, pruner):
    """Counted when all that is zero by chance at the beginning has been trained."""
    uses = weight_uses(model, torch.rand(2, *SHAPE))
    pruner.refresh(20)
    pruner.finalise()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(0.1)
    return count(model, pruner.layers, [1.0] * len(pruner.layers), True, uses, SHAPE)


@pytest.mark.parametrize("shortcut", ["pad", "none"])
@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=lambda each: f"{type(each).__name__}-{each.budget}")
def test_every_allocation_spends_the_budget_between_its_bounds(allocation, shortcut):
    sizes = []
    for each in (allocation, Uniform()):
        pruner = pruner_of(model := network(shortcut=shortcut), each)
        sizes.append(finished(model, pruner))
        assert all(1 <= level <= len(layer.weight) for level, layer in zip(pruner.levels, pruner.layers, strict=True))
    kind = allocation.budget.replace("extracted_", "")
    share = sizes[0][f"{kind}_sparse"] / sizes[1][f"{kind}_sparse"]
    assert 0.99 <= share <= 1


@pytest.mark.parametrize("shortcut", ["pad", "conv", "none"])
def test_masks_are_counted_as_the_finished_network_is(shortcut):
    model = network(shortcut=shortcut)
    pruner = pruner_of(model, RandomShares("macs"))
    found = sizes_under_masks(network(shortcut=shortcut), weight_uses(model, torch.rand(2, *SHAPE)), SHAPE)
    pruner.refresh(20)
    masks = {layer.name: mask.clone() for layer, mask in zip(pruner.layers, pruner.masks, strict=True)}
    counted = finished(model, pruner)
    assert found(masks) == {kind: counted[f"{kind}_sparse"] for kind in ("params", "macs")}
    whole = found({name: torch.ones_like(mask) for name, mask in masks.items()})
    assert whole == {"params": counted["params_total"], "macs": counted["macs_dense"]}
    (name, mask), *_ = masks.items()
    assert found({name: mask})["params"] < whole["params"]
    assert found({}) == whole  # whatever was masked before


def test_counting_under_masks_leaves_the_network_as_it_is():
    model = network()
    uses, before = weight_uses(model, torch.rand(2, *SHAPE)), [p.clone() for p in model.parameters()]
    draws = torch.get_rng_state()
    sizes = sizes_under_masks(model, uses, SHAPE)
    sizes({layer.name: torch.zeros_like(layer.weight) for layer in weight_layers(model)})
    assert all(torch.equal(p, saved) for p, saved in zip(model.parameters(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), draws)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_without_sparsity_every_layer_stays_whole():
    pruner = pruner_of(network(), ERK("extracted_macs"), sparsity=0.0)
    pruner.masks_at(1.0, 20)
    assert pruner.levels == [len(layer.weight) for layer in pruner.layers]


def test_what_cannot_be_reached_says_how_near_it_came():
    pruner = pruner_of(network(widths=(4, 4), blocks=(1, 1)), ERK("extracted_macs"), sparsity=0.5)
    with pytest.raises(OutOfReach, match=r"budget='extracted_macs': reached [\d,]+ of [\d,]+, 9\d\.\d+ % of the"):
        pruner.masks_at(1.0, 20)


def test_a_floor_above_the_budget_is_refused():
    floor = {"refresh": "once", "min_density": 0.35, "budget": "extracted_macs"}
    with pytest.raises(ValueError, match=r"min_density=0\.35: this floor alone costs"):  # nominally, at once
        pruner_of(network(), Global(**floor), sparsity=0.9)
    layers = pruner_of(network(), Uniform())._network.views()
    with pytest.raises(OutOfReach, match=r"reached 2 of 1, .*, at the least it may keep; ask for less sparsity"):
        allocate_extracted(
            ERK("extracted_macs"), Filter(0.6), layers, lambda levels: {"macs": 1 + (levels != uniform_of(layers, 0.6))}
        )


def uniform_of(layers, sparsity):
    return [Filter(sparsity).target(layer.shape) for layer in layers]


def test_a_pruner_without_anything_that_counts_is_refused():
    with pytest.raises(ValueError, match="budget='extracted_macs': is counted by `sizes`; give them to the pruner"):
        pruner_of(network(), ERK("extracted_macs"), sizes=None)


def test_a_nan_among_scores_is_not_taken_for_too_small_a_budget():
    pruner = pruner_of(model := network(), LAMP(refresh="once", budget="extracted_macs"))
    with torch.no_grad():
        pruner._weights[2][0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        pruner.masks_at(1.0, 20)
    assert model.training


def test_single_filters_fill_what_is_left():
    """A cost that is a sum: the allocation's steps are two filters wide, and one of the cheap ones still fits."""
    layers = pruner_of(network(widths=(8, 8), blocks=(1, 1)), Uniform())._network.views()[:2]

    def sizes(levels):
        return {"params": 1, "macs": 190 * levels[0] + 7 * levels[1]}

    levels, uniform = allocate_extracted(ERK("extracted_macs"), Filter(0.5), layers, sizes)
    assert uniform["macs"] == 197 * 4
    assert 0.99 * uniform["macs"] <= sizes(levels)["macs"] <= uniform["macs"]
