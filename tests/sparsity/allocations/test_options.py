"""Levels of any kind: lists, pairs in no order, budgets of a pattern's own, and the score by the Hessian."""

import itertools

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional as F

from midstate.sparsity import (
    ERK,
    HAQ,
    L1,
    NM,
    Budget,
    Direct,
    Filter,
    Hard,
    LayerView,
    Method,
    Pruner,
    RandomShares,
    Reversed,
    Row,
    Sample,
    Schedule,
    Scope,
    Update,
    Weight,
)
from midstate.sparsity.allocations.base import limit, options_of, uniform_cost
from midstate.sparsity.allocations.knapsack import monotone, solve
from midstate.sparsity.observe import hessian_traces
from midstate.sparsity.tensors import weight_layers


def draws(seed):
    return Generator().manual_seed(seed)


def slow_monotone(losses, levels):
    return [
        min(losses[i] for i, low in enumerate(levels) if all(a <= b for a, b in zip(low, high, strict=True)))
        for high in levels
    ]


def test_pairs_in_any_order_are_solved_as_by_trying_all():
    """Losses are noisy: a pair counts as no worse than those it is nowhere lower than, and as nothing beside others."""
    for seed in range(25):
        generator = draws(seed)
        pairs = [(w, a) for w in (2, 4, 8) for a in (2, 4, 8)]
        order = torch.randperm(len(pairs), generator=generator).tolist()
        levels = [pairs[i] for i in order[:5]]
        losses = [torch.rand(len(levels), generator=generator).tolist() for _ in range(3)]
        sizes = torch.randint(1, 20, (3,), generator=generator).tolist()
        costs = [[[size * w * a for w, a in levels] for size in sizes]]
        allowed = sum(row[int(torch.randint(len(levels), (), generator=generator))] for row in costs[0])
        smooth = [monotone(row, levels) for row in losses]
        assert [row.tolist() for row in smooth] == [slow_monotone(row, levels) for row in losses]
        chosen = solve(smooth, costs, [allowed])
        totals = {
            choice: sum(row[k] for row, k in zip(smooth, choice, strict=True))
            for choice in itertools.product(range(len(levels)), repeat=3)
            if sum(row[k] for row, k in zip(costs[0], choice, strict=True)) <= allowed
        }
        assert totals[tuple(chosen)] == pytest.approx(min(totals.values()), abs=1e-4)


def test_a_worse_pair_is_not_chosen_because_it_costs_more():
    """From cheap to dear (8, 2) stands before (4, 6), and a running minimum gave the dearer one its loss."""
    levels, losses = [(2, 2), (8, 2), (4, 6)], [1.0, 0.1, 0.5]
    assert monotone(losses, levels).tolist() == losses
    assert solve([monotone(losses, levels)], [[[4, 16, 24]]], [24]) == [1]
    assert monotone([0.3, 0.2, 0.25], [1, 2, 3]).tolist() == [0.3, 0.2, 0.2]
    assert monotone([0.3, float("nan")], [1, 2]).tolist()[0] == 0.3


def view(pattern, shape, index=0, **more):
    weight = torch.randn(shape, generator=draws(index))
    return LayerView(weight, index=index, score_of=lambda layer: pattern.pool(layer.weight.abs()), **more)


@pytest.mark.parametrize("pattern", [Weight(0.5), Row(0.5), Filter(0.5), NM(4, 8)], ids=lambda each: each.name)
@pytest.mark.parametrize("make", [Budget, HAQ], ids=lambda each: each.__name__)
def test_levels_are_listed_under_every_pattern(pattern, make):
    layers = [view(pattern, (16, 16), 0), view(pattern, (4, 8), 1)]
    allocation = make(levels=[2, 4, 8])
    Method(Scope(), pattern, L1(), allocation, Direct(), Update(), Hard())
    allocation.check_layers(pattern, layers)
    assert options_of(pattern, layers[0], [8, 2, 4]) == [2, 4, 8]
    # Four filters, or eight weights a row, have no more levels than that.
    assert options_of(pattern, layers[1], [2, 4, 8]) == ([2, 4] if pattern.name == "filter" else [2, 4, 8])
    if make is Budget:
        found = Budget("weight_error", levels=[2, 4, 8]).allocate(pattern, layers)
        assert set(found) <= {2, 4, 8}


class Bits:
    """What a quantizer is to allocations: levels are bits of weights and activations, and the budget is its own."""

    name, unit, group, budgets, lowest = "bits", "weight", "layer", ("size", "bitops"), 2

    def __init__(self, pairs, share=0.5):
        self.pairs, self.share = pairs, share

    def choices(self, shape):
        bits = (2, 3, 4, 5, 6, 7, 8)
        return list(itertools.product(bits, bits)) if self.pairs else list(bits)

    def full(self, shape):
        return (8, 8) if self.pairs else 8

    def limit(self, layers, budget):
        return int(self.share * sum(layer.cost(self, self.full(layer.shape), budget) for layer in layers))


def cost(layer, level, budget):
    w, a = level if isinstance(level, tuple) else (level, 1)
    return layer.shape.numel() * (w if budget == "size" else w * a * layer.macs)


def bits_layers(pairs, **more):
    shapes = [(8, 4, 3, 3), (16, 8, 3, 3), (16, 16, 3, 3), (10, 16)]
    return [view(Bits(pairs), shape, i, macs=16 >> i, cost_of=cost, **more) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    "allocation",
    [
        ERK("size"),
        RandomShares("size"),
        Reversed("bitops"),
        Budget("erk", budget="size"),
        Budget("random", budget="size"),
        Budget("weight_error", budget="bitops"),
    ],
    ids=str,
)
def test_bits_are_allocated_within_a_limit_of_the_patterns_own(allocation):
    pattern = Bits(pairs=False)
    layers = bits_layers(False, error_of=lambda layer, level: 4.0**-level)
    allocation.check_layers(pattern, layers)
    levels = allocation.allocate(pattern, layers)
    assert all(2 <= level <= 8 for level in levels)
    used = sum(layer.cost(pattern, level, allocation.budget) for layer, level in zip(layers, levels, strict=True))
    assert used <= limit(pattern, layers, allocation.budget) == pattern.limit(layers, allocation.budget)
    assert limit(NM(2, 8), layers[1:2], "macs") == uniform_cost(NM(2, 8), layers[1:2], "macs")


@pytest.mark.parametrize("allocation", [ERK(), Budget(), Budget(budget="both"), HAQ(budget="latency")], ids=str)
def test_a_budget_that_the_pattern_has_not_is_refused(allocation):
    with pytest.raises(ValueError, match=r"budget='\w+': must be one of size, bitops with bits"):
        allocation.check_layers(Bits(False), bits_layers(False))
    with pytest.raises(ValueError, match=r"budget='size': is a quantizer's, and pattern=nm prunes; use params or macs"):
        Method(Scope(), NM(2, 4), L1(), ERK("size"), Direct(), Update(), Hard())


def test_the_rises_of_a_pairs_parts_are_measured_apart_and_added():
    asked = []

    def loss(layer, level):
        asked.append(level)
        w, a = level
        return 1.0 + (8 - w) / layer.macs + 0.1 * (8 - a)

    pattern, layers = Bits(pairs=True), bits_layers(True, loss_of=loss)
    levels = Budget("sensitivity", levels=[2, 4, 8], budget="bitops").allocate(pattern, layers)
    assert set(asked) == {(w, 8) for w in (2, 4, 8)} | {(8, a) for a in (2, 4)}
    assert set(itertools.chain(*levels)) <= {2, 4, 8}
    costs = [[cost(layer, level, "bitops") for level in options_of(pattern, layer, [2, 4, 8])] for layer in layers]
    rises = [
        [(8 - w) / layer.macs + 0.1 * (8 - a) for w, a in options_of(pattern, layer, [2, 4, 8])] for layer in layers
    ]
    best = min(
        sum(row[k] for row, k in zip(rises, choice, strict=True))
        for choice in itertools.product(range(9), repeat=4)
        if sum(row[k] for row, k in zip(costs, choice, strict=True)) <= pattern.limit(layers, "bitops")
    )
    found = sum((8 - w) / layer.macs + 0.1 * (8 - a) for layer, (w, a) in zip(layers, levels, strict=True))
    assert found == pytest.approx(best, abs=1e-4)


def test_an_error_is_the_share_of_the_squared_weights_that_goes():
    layer = view(Weight(0.5), (2, 2))
    layer.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
    assert layer.error(Weight(0.5), 2) == pytest.approx((1 + 4) / 30)
    assert layer.error(Weight(0.5), 4) == 0
    assert view(Weight(0.5), (2, 2), error_of=lambda layer, level: level / 8).error(Weight(0.5), 2) == 0.25


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)).double()


IMAGES, LABELS = torch.randn(60, 3, generator=draws(1), dtype=torch.double), torch.arange(60) % 3


def test_the_hessians_trace_is_that_of_the_matrix():
    """Over all sign vectors the mean of v'Hv is the trace; drawn ones come near it."""
    model = linear()
    layers = weight_layers(model)

    def loss(first, second):
        return F.cross_entropy(torch.tanh(IMAGES @ first.t()) @ second.t(), LABELS)

    weights = tuple(layer.weight.detach() for layer in layers)
    blocks = torch.autograd.functional.hessian(loss, weights)
    exact = [float(blocks[i][i].reshape(w.numel(), -1).trace()) for i, w in enumerate(weights)]
    found = hessian_traces(model, layers, Sample(IMAGES, LABELS), [draws(0), draws(1)], 1000)
    assert [float(each) for each in found] == pytest.approx(exact, rel=0.05)
    few = [hessian_traces(model, layers, Sample(IMAGES, LABELS), [draws(0), draws(1)], 5) for _ in range(2)]
    assert few[0] == few[1]
    assert model.training
    assert all(each.grad is None for each in model.parameters())


def test_the_score_by_the_hessian_is_trace_over_size_times_squared_error():
    model, pattern = linear(), Weight(0.5)
    allocation = Budget("hessian", levels=[2, 6, 12], vectors=50)
    method = Method(
        Scope(skip_first=False, skip_classifier=False), pattern, L1(), allocation, Direct(), Update(), Hard()
    )
    pruner = Pruner(model, method, Schedule("linear", 0, 0.5), 2, 8, seed=3, sample=Sample(IMAGES, LABELS))
    views = pruner._network.views()
    losses = allocation._losses(pattern, views, [[2, 6, 12]] * 2)
    for view, row in zip(views, losses, strict=True):
        squares = float(view.weight.square().sum())
        wanted = [max(0, view.hessian_trace) / 12 * squares * view.error(pattern, level) for level in (2, 6, 12)]
        assert row == pytest.approx(wanted)
    pruner.refresh(4)
    assert sum(pruner.levels) <= 12
