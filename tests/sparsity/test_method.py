"""Every product of axes either works to the end or is refused with a reason."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from midstate.sparsity import (
    ERK,
    L1,
    L2,
    LAMP,
    NM,
    SRSTE,
    SSTE,
    STE,
    Blocks,
    Budget,
    Combinations,
    ConstantScale,
    Density,
    Direct,
    Fade,
    Filter,
    Frames,
    GeometricMedian,
    Global,
    Hard,
    LearnedCombinations,
    Method,
    MultiAxis,
    Pruner,
    Random,
    Row,
    Sample,
    Schedule,
    Scope,
    Soft,
    StepN,
    Uniform,
    UniformPlus,
    Update,
    Wanda,
    Weight,
)
from midstate.sparsity.updates.base import Timed

PATTERNS = [Weight(0.5), Row(0.5), Filter(0.5), NM(2, 4)]
CRITERIA = [L1(), L2(), Random(), Wanda(), GeometricMedian(), GeometricMedian(0.5)]
ALLOCATIONS = [
    Uniform(),
    UniformPlus(),
    ERK(),
    Global(),
    LAMP(),
    Budget("weight_error"),
    Budget("random", per="filter"),
]
PATHS = [Direct(), Density(), StepN(), StepN("group"), Blocks(), Blocks(rank="network", rerank="sticky")]
ESTIMATORS = [Hard(), STE(), SRSTE(), Soft(), MultiAxis(), ConstantScale()]
# Criteria x allocations x paths x estimators that make sense together: distances and the mix are for filters (the mix
# where scores do not decide the allocation), levels a filter, n, blocks and MaxQ's estimators for N:M.
WORKING = {
    "weight": 4 * 6 * 2 * 4,
    "row": 4 * 6 * 2 * 4,
    "filter": (5 * 6 + 3) * 2 * 4,
    "nm": 4 * (6 * 5 * 6 + 1 * 4 * 4),
}
REASONS = (
    "path=",
    "criterion=geometric_median",
    "norm_share=",
    "estimator of MaxQ",
    "per='filter'",
    "per=filter",
)
IMAGES = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )


def walk(method):
    """Four steps from dense to the target; returns the finished pruner."""
    model = network()
    pruner = Pruner(
        model, method, Schedule("linear", 0, 0.5), 2, 4, classifier="5", uses={"0": 16, "2": 16, "5": 1},
        sample=Sample(IMAGES, LABELS),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        pruner.tick(step)
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        pruner.before_step(optimizer)
        optimizer.step()
        pruner.after_step(optimizer)
    pruner.refresh(4)
    model.eval()
    masked = model(IMAGES)
    pruner.finalise()
    assert torch.equal(model(IMAGES), masked)
    return pruner


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
@pytest.mark.slow
def test_every_product_works_or_is_refused_with_a_reason(pattern):
    scope = Scope(skip_first=False, skip_classifier=pattern.name == "filter")
    worked, refusals = 0, []
    for criterion, allocation, path, estimator in itertools.product(CRITERIA, ALLOCATIONS, PATHS, ESTIMATORS):
        try:
            pruner = walk(Method(scope, pattern, criterion, allocation, path, Update(), estimator))
        except ValueError as error:
            refusals.append(str(error))
            continue
        worked += 1
        assert pruner.verify(), (criterion, allocation, path, estimator)
        assert pruner.allocation_report()["params_slack"] >= 0
    assert worked == WORKING[pattern.name]
    assert all(any(reason in refusal for reason in REASONS) for refusal in refusals)


# Of PGF, LBC and S-STE, under one criterion and in few networks: beside which other axes they work.
NEW_PATHS = [Fade(), Frames("sparsify"), Frames("fine"), Frames("densify"), Combinations()]
NEW_ESTIMATORS = [SSTE(), LearnedCombinations()]
NEW_WORKING = {
    "weight": 6 * 3,  # fading, under hard, ste and sr_ste
    "filter": 6 * 3,
    # Fading under all but soft and the new ones; frames and combinations under all but candidates; s_ste on five known
    # paths; candidates where shapes alone decide levels. Where filters have levels of their own, no MaxQ, combinations
    # or groups that step one by one.
    "nm": 6 * (5 + 4 * 7 + 5) + 3 + (3 + 3 * 5 + 4),
}
NEW_REASONS = (*REASONS, "estimator=candidates", "estimator of S-STE", "per=filter", "path=")


@pytest.mark.parametrize("pattern", [Weight(0.5), Filter(0.5), NM(2, 4)], ids=lambda p: p.name)
@pytest.mark.slow
def test_every_product_of_later_members_works_or_is_refused_with_a_reason(pattern):
    scope = Scope(skip_first=False, skip_classifier=pattern.name == "filter")
    products = [*itertools.product(NEW_PATHS, ESTIMATORS + NEW_ESTIMATORS), *itertools.product(PATHS, NEW_ESTIMATORS)]
    worked, refusals = 0, []
    for allocation, (path, estimator) in itertools.product(ALLOCATIONS, products):
        try:
            pruner = walk(Method(scope, pattern, L1(), allocation, path, Update(), estimator))
        except ValueError as error:
            refusals.append(str(error))
            continue
        worked += 1
        assert pruner.verify(), (allocation, path, estimator)
    assert worked == NEW_WORKING[pattern.name]
    assert all(any(reason in refusal for reason in NEW_REASONS) for refusal in refusals)


def test_half_a_method_is_refused():
    with pytest.raises(ValueError, match="criterion, allocation, path, update, estimator missing"):
        Method(Scope(), NM(1, 4))


def test_filters_of_the_classifier_are_classes():
    with pytest.raises(ValueError, match="skip_classifier=false: a class"):
        Method(Scope(skip_classifier=False), Filter(0.5), L1(), Uniform(), Direct(), Update(), Hard())


def never_regrowing(*blocks):
    return Method(Scope(), NM(1, 4), L1(), Uniform(), Blocks(*blocks), Update(regrow="never"), Hard())


@pytest.mark.parametrize("order", ["default", "random_tick"])
def test_what_may_never_regrow_needs_sticky_blocks(order):
    with pytest.raises(ValueError, match="regrow=never: rerank=live"):
        never_regrowing(order)
    never_regrowing(order, "layer", "sticky")


@pytest.mark.parametrize("rank", ["layer", "network"])
def test_in_a_fixed_random_order_no_block_turns_dense_again(rank):
    live, sticky = (walk(never_regrowing("random", rank, rerank)) for rerank in ("live", "sticky"))
    for one, other in zip(live.layers, sticky.layers, strict=True):
        assert torch.equal(one.weight, other.weight)


class Mine(Timed):
    """An update of one's own: its one method."""

    def adjust(self, score, in_use, generator):
        return score


def test_an_update_of_ones_own_needs_one_method():
    assert walk(Method(Scope(), NM(2, 4), L1(), Uniform(), Direct(), Mine(), Hard())).verify()
