"""Allocations against hand-derived levels, slow definitions and the one law: the budget is met and never exceeded."""

import dataclasses
import itertools
import json

import pytest
import torch
from torch import Generator

from midstate.sparsity import (
    ERK,
    L1,
    LAMP,
    NM,
    Budget,
    Direct,
    Filter,
    Global,
    Hard,
    LayerView,
    Method,
    Row,
    Scheme,
    Scope,
    Uniform,
    UniformPlus,
    Update,
    Weight,
    scheme_text,
)
from midstate.sparsity.allocations.base import uniform_cost
from midstate.sparsity.allocations.fitting import proportional
from midstate.sparsity.allocations.knapsack import solve

SHAPES = [(8, 16, 1, 1), (16, 8, 3, 3), (32, 16, 3, 3), (10, 32)]


def candidate(i, pattern, shape, uses=1, loss=None, scale=1.0):
    weight = scale * torch.randn(shape, generator=Generator().manual_seed(i))
    return LayerView(
        weight,
        name=f"layer{i}",
        index=i,
        macs=uses,
        is_first=i == 0,
        is_classifier=len(shape) == 2,
        score_of=lambda layer: pattern.pool(layer.weight.abs()),
        loss_of=lambda layer, level: loss(level) if loss else 0.0,
        measure={"input_norm": lambda: torch.ones(shape[1])},
        generators=lambda *_: Generator().manual_seed(i),
    )


def network(pattern, shapes=SHAPES, uses=(64, 16, 16, 1)):
    return [candidate(i, pattern, shape, use) for i, (shape, use) in enumerate(zip(shapes, uses, strict=True))]


def method(pattern, allocation):
    return Method(Scope(), pattern, L1(), allocation, Direct(), Update(), Hard())


def spent(pattern, layers, levels, budget):
    return sum(layer.cost(pattern, level, budget) for layer, level in zip(layers, levels, strict=True))


PATTERNS = [Weight(0.8), Row(0.8), Filter(0.3), NM(2, 8)]
NON_UNIFORM = [
    UniformPlus(),
    *(make(budget=budget) for make in (ERK, Global, LAMP) for budget in ("params", "macs")),
    Global(normalise="mean", min_density=0.1),
    *(Budget(score) for score in ("weight_error", "erk", "owl", "random")),
    Budget("weight_error", budget="macs"),
    Budget("erk", budget="macs"),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
@pytest.mark.parametrize("allocation", NON_UNIFORM, ids=str)
def test_the_budget_is_met_to_within_one_level_of_one_layer_and_never_exceeded(pattern, allocation):
    layers = network(pattern)
    levels = allocation.allocate(pattern, layers)
    limit = uniform_cost(pattern, layers, allocation.budget)
    left = limit - spent(pattern, layers, levels, allocation.budget)
    assert left >= 0
    for layer, level in zip(layers, levels, strict=True):
        assert 1 <= level <= pattern.full(layer.shape)  # nothing is emptied
        choices = pattern.choices(layer.shape) if isinstance(allocation, Budget) else range(level, level + 2)
        higher = [choice for choice in choices if level < choice <= pattern.full(layer.shape)]
        if higher:
            step = layer.cost(pattern, min(higher), allocation.budget) - layer.cost(pattern, level, allocation.budget)
            assert step > left, f"{layer.name} could have kept more"


def test_uniform_gives_every_layer_the_same():
    assert Uniform().allocate(NM(2, 8), network(NM(2, 8))) == [2] * 4
    assert Uniform().allocate(Filter(0.25), network(Filter(0.25))) == [6, 12, 24, 8]


def test_uniform_plus_keeps_the_first_layer_and_a_fifth_of_the_classifier():
    pattern = Weight(0.7)
    levels = UniformPlus().allocate(pattern, network(pattern))
    total = [torch.Size(shape).numel() for shape in SHAPES]
    assert levels[0] == total[0]
    assert levels[3] >= 0.2 * total[3]
    shares = [level / size for level, size in zip(levels[1:3], total[1:3], strict=True)]
    assert shares[0] == pytest.approx(shares[1], abs=1 / total[1])
    with pytest.raises(ValueError, match="the least it may keep costs"):
        UniformPlus().allocate(Weight(0.98), network(Weight(0.98)))
    inner = [candidate(i, pattern, (8, 8, 3, 3)) for i in (1, 2)]
    with pytest.raises(ValueError, match=r"neither is in scope; use pruner/scope=all"):
        UniformPlus().allocate(pattern, inner)


def slow_erk(shapes, density):
    """As published: layers that would exceed density 1 are made dense one by one, and epsilon solved again."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    dense = set()
    while True:
        raw = {i: sum(shape) / sizes[i] for i, shape in enumerate(shapes) if i not in dense}
        left = density * sum(sizes) - sum(sizes[i] for i in dense)
        epsilon = left / sum(raw[i] * sizes[i] for i in raw)
        worst = max(raw, key=raw.get)
        if epsilon * raw[worst] <= 1:
            return [1.0 if i in dense else epsilon * raw[i] for i in range(len(shapes))]
        dense.add(worst)


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_erk_equals_the_published_iteration(sparsity):
    pattern = Weight(sparsity)
    layers = network(pattern)
    density = uniform_cost(pattern, layers, "params") / sum(layer.shape.numel() for layer in layers)
    wanted = slow_erk(SHAPES, density)
    for level, share, layer in zip(ERK().allocate(pattern, layers), wanted, layers, strict=True):
        assert level == pytest.approx(share * layer.shape.numel(), abs=1.01)


def test_proportional_by_hand():
    # Sizes 10 and 30, raw 2 : 1, limit 16: scale 16 / (20 + 30).
    assert proportional([2, 1], [0, 0], [10, 30], 16, "params") == pytest.approx([0.64, 0.32])
    assert proportional([2, 1], [0, 0], [10, 30], 25, "params") == pytest.approx([1.0, 0.5])  # the first is full
    assert proportional([0, 1], [0.5, 0], [10, 30], 20, "params") == pytest.approx([0.5, 0.5])


def test_global_keeps_the_largest_weights_of_the_network():
    pattern = Weight(0.8)
    layers = [candidate(0, pattern, (8, 16, 3, 3)), candidate(1, pattern, (16, 8, 1, 1), scale=3.0)]
    levels = Global(min_density=0).allocate(pattern, layers)
    everything = torch.cat([layer.weight.flatten().abs() for layer in layers])
    threshold = everything.sort(descending=True).values[sum(levels) - 1]
    assert levels == [int((layer.weight.abs() >= threshold).sum()) for layer in layers]
    # Divided by their layer's mean, the scale of a layer no longer matters.
    rescaled = [candidate(0, pattern, (8, 16, 3, 3)), candidate(1, pattern, (16, 8, 1, 1))]
    mean = Global(normalise="mean")
    assert mean.allocate(pattern, layers) == mean.allocate(pattern, rescaled)


def test_a_global_allocation_has_a_floor():
    pattern = Filter(0.5)
    layers = [candidate(0, pattern, (10, 4)), candidate(1, pattern, (10, 4), scale=100.0)]
    assert Global(min_density=0).allocate(pattern, layers) == [1, 9]
    assert Global(min_density=0.3).allocate(pattern, layers) == [3, 7]
    with pytest.raises(ValueError, match=r"min_density=0\.8: this floor alone costs 64"):
        Global(min_density=0.8).allocate(pattern, layers)


def slow_lamp(scores):
    return [
        sorted(float(u**2) / sum(float(v**2) for v in score.tolist() if v >= u) for u in score.tolist())
        for score in scores
    ]


def test_lamp_equals_the_slow_definition():
    pattern = Weight(0.7)
    layers = [
        candidate(i, pattern, shape, scale=s)
        for i, (shape, s) in enumerate([((4, 9), 1), ((6, 5), 50), ((3, 3), 0.01)])
    ]
    for layer, slow in zip(layers, slow_lamp([layer.score().flatten().double() for layer in layers]), strict=True):
        score = layer.score().flatten().clone()
        LAMP().make_comparable(score)
        assert score.tolist() == pytest.approx(slow, rel=1e-5)
        assert score[-1] == 1  # the largest of every layer: none can vanish
    levels = LAMP(min_density=0).allocate(pattern, layers)
    units = sorted(
        ((value, i) for i, layer in enumerate(slow_lamp([x.score().flatten() for x in layers])) for value in layer)
    )
    best = units[-sum(levels) :]
    assert levels == [sum(1 for _, i in best if i == layer) for layer in range(3)]


def test_scores_that_cannot_be_compared():
    pattern = Weight(0.5)
    empty = candidate(0, pattern, (4, 4), scale=0.0)
    levels = LAMP().allocate(pattern, [empty, candidate(1, pattern, (4, 4))])
    assert levels == [1, 15]
    empty.weight[0, 0] = float("nan")
    for allocation in (LAMP(), Global(), Global(normalise="mean")):
        with pytest.raises(ValueError, match="NaN"):
            allocation.allocate(pattern, [empty, candidate(1, pattern, (4, 4))])


def test_the_solver_finds_the_optimum_of_every_small_problem():
    generator = Generator().manual_seed(0)
    for _ in range(30):
        losses = torch.rand(4, 3, generator=generator).sort(1, descending=True).values.tolist()
        costs = [torch.randint(1, 50, (4, 3), generator=generator).sort(1).values.tolist() for _ in range(2)]
        limits = [sum(row[1] for row in rows) for rows in costs]
        allowed = [
            choice
            for choice in itertools.product(range(3), repeat=4)
            if all(
                sum(rows[i][k] for i, k in enumerate(choice)) <= limit
                for rows, limit in zip(costs, limits, strict=True)
            )
        ]
        best = min(sum(losses[i][k] for i, k in enumerate(choice)) for choice in allowed)
        chosen = solve(losses, costs, limits)
        assert tuple(chosen) in allowed
        assert sum(losses[i][k] for i, k in enumerate(chosen)) == pytest.approx(best, abs=1e-4)
    with pytest.raises(ValueError, match="no choice of levels meets the budget"):
        solve([[1.0]], [[[5]]], [4])


def test_mixed_levels_follow_the_measured_sensitivity():
    pattern = NM(2, 8)
    rises = {0: {1: 9.0, 2: 5.0, 4: 1.0}, 1: {1: 0.1, 2: 0.05, 4: 0.01}}
    asked = []

    def loss(i):
        def measure(level):
            asked.append((i, level))
            return 2.0 + rises[i].get(level, 0.0)

        return measure

    layers = [candidate(i, pattern, (16, 16), loss=loss(i)) for i in range(2)]
    # Both layers are equal in size: 2 + 2 levels are spent best as 3 + 1, and with powers of two as 2 + 2 or less.
    assert Budget("sensitivity", levels=[1, 2, 4, 8]).allocate(pattern, layers) == [2, 2]
    assert set(asked) == {(i, level) for i in range(2) for level in (1, 2, 4, 8)}
    big = [candidate(0, pattern, (16, 16), loss=loss(0)), candidate(1, pattern, (32, 16), loss=loss(1))]
    assert Budget("sensitivity", levels=[1, 2, 4, 8]).allocate(pattern, big) == [4, 1]


def test_both_budgets_hold_together():
    pattern = NM(2, 8)
    layers = network(pattern, uses=(1000, 1, 10, 1))
    levels = Budget("weight_error", levels=[1, 2, 4, 8], budget="both").allocate(pattern, layers)
    for budget in ("params", "macs"):
        assert spent(pattern, layers, levels, budget) <= uniform_cost(pattern, layers, budget)


@pytest.mark.parametrize("score", ["weight_error", "random"])
def test_one_level_a_filter_under_the_same_budget(score):
    pattern = NM(2, 8)
    layers = network(pattern)
    levels = Budget(score, levels=[1, 2, 4, 8], per="filter").allocate(pattern, layers)
    assert [len(level) for level in levels] == [8, 16, 32, 10]
    assert len(torch.cat(levels).unique()) > 1
    limit = uniform_cost(pattern, layers, "params")
    assert (
        limit - min(shape[1] // 8 * torch.Size(shape[2:]).numel() for shape in SHAPES)
        < spent(pattern, layers, levels, "params")
        <= limit
    )


@pytest.mark.parametrize(
    ("make", "pattern", "message"),
    [
        (lambda: Budget("owl", per="filter"), NM(2, 8), "score=owl knows whole layers only"),
        (lambda: Budget("random", per="filter"), Weight(0.5), "pattern=weight has no N"),
        (lambda: Budget(budget="size"), Filter(0.5), "budget='size': is a quantizer's, and pattern=filter prunes"),
        (lambda: Budget(levels=[1, 9]), NM(2, 8), "levels=\\[1, 9\\]: must be whole numbers from 1 to 8"),
        (lambda: Budget(levels=[4, 8]), NM(2, 8), "all exceed the budget, uniform 2:8"),
        (lambda: Budget(levels=[]), NM(2, 8), "must be a list of levels"),
        (lambda: Budget("best"), NM(2, 8), "score='best': must be one of"),
        (lambda: Global(normalise="max"), Weight(0.5), "normalise='max': must be one of none, mean"),
    ],
)
def test_settings_without_meaning_are_refused(make, pattern, message):
    with pytest.raises(ValueError, match=message):
        method(pattern, make())


def test_a_scheme_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "scheme.json"
    pattern = NM(2, 8)
    layers = network(pattern)
    levels = [4, 1, torch.tensor([1, 2] * 16), 0]
    path.write_text(scheme_text(pattern, dict(zip([layer.name for layer in layers], levels, strict=True))))
    assert len(path.read_text().splitlines()) == 10  # one line a layer
    scheme = Scheme(str(path))
    method(pattern, scheme)
    found = scheme.allocate(pattern, layers)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(found, levels, strict=True))


def use(path):
    scheme = Scheme(str(path))
    method(NM(2, 8), scheme)
    return scheme.allocate(NM(2, 8), network(NM(2, 8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": 4}, "was made for"),
        ({"levels": {"layer0": 1}}, r"missing \['layer1', 'layer2', 'layer3'\]"),
        ({"levels": {**{f"layer{i}": 1 for i in range(4)}, "other": 1}}, r"not in scope \['other'\]"),
        (
            {"levels": {**{f"layer{i}": 1 for i in range(3)}, "layer3": 9}},
            "layer3=9: must be a whole number from 0 to 8",
        ),
        ({"levels": {**{f"layer{i}": 1 for i in range(3)}, "layer3": [1, 2]}}, "one level for each of 10 filters"),
        ({"levels": 3}, "must hold `pattern` and `levels`"),
    ],
)
def test_a_scheme_that_does_not_fit_is_refused(tmp_path, change, message):
    path = tmp_path / "scheme.json"
    good = {"pattern": "nm", "m": 8, "levels": {f"layer{i}": 1 for i in range(4)}}
    path.write_text(json.dumps({**good, **change}))
    with pytest.raises(ValueError, match=message):
        use(path)


def test_an_unreadable_scheme_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Scheme(str(tmp_path / "none.json"))
    (tmp_path / "text.json").write_text("n: 1")
    with pytest.raises(ValueError, match="is not a scheme"):
        Scheme(str(tmp_path / "text.json"))


@pytest.mark.parametrize("make", [ERK, Global, LAMP])
@pytest.mark.parametrize("pair", range(40))
def test_padded_groups_do_not_exceed_the_budget_either(make, pair):
    """The partial group of r channels keeps ceil(N * r / M): costs are not in proportion to levels."""
    pattern = NM(5, 16)
    layers = [candidate(2 * pair, pattern, (8, 3)), candidate(2 * pair + 1, pattern, (16, 3 + pair))]
    levels = make().allocate(pattern, layers)
    assert spent(pattern, layers, levels, "params") <= uniform_cost(pattern, layers, "params")


def test_a_fifth_of_the_classifier_is_rounded_up():
    pattern = NM(3, 16)
    layers = [
        candidate(i, pattern, shape) for i, shape in enumerate([(512, 512, 3, 3), (100, 512, 3, 3), (10, 512)], 1)
    ]
    assert UniformPlus().allocate(pattern, layers)[2] >= 4  # of 16: 3 would be less than a fifth


def test_outliers_of_grouped_convolutions_are_found_in_every_group():
    from midstate.sparsity.allocations.budget import _outliers

    layer = candidate(0, Weight(0.5), (8, 4, 1, 1))
    layer.weight.fill_(1.0)
    norms = torch.tensor([1.0, 1, 1, 1, 1000, 1, 1, 1])
    assert _outliers(dataclasses.replace(layer, measure={"input_norm": lambda: norms})) == 4 / 32


@pytest.mark.slow
def test_a_hundred_levels_a_layer_end_in_a_choice_near_the_best():
    """Exactness there could take hours; losses are smooth, so a choice by slopes bounds what could be better."""
    draws = Generator().manual_seed(0)
    sizes = [2304] * 6 + [9216] * 6 + [36864] * 6
    losses, costs = [], []
    for size in sizes:
        squares = (torch.randn(size, generator=draws) * (1 + torch.rand(size, generator=draws))).double().square()
        kept = squares.sort(descending=True).values.cumsum(0) / squares.sum()
        levels = Weight(0.75).choices(torch.Size([size]))
        losses.append([float(1 - kept[level - 1]) for level in levels])
        costs.append(levels)
    limit = sum(sizes) // 4
    chosen = solve(losses, [costs], [limit])
    total = sum(loss[at] for loss, at in zip(losses, chosen, strict=True))
    assert sum(cost[at] for cost, at in zip(costs, chosen, strict=True)) <= limit
    # Lagrange: for any price, the sum of the least of loss + price * cost, less price * limit, is a lower bound.
    bound = max(
        sum(min(a + price * b for a, b in zip(*row, strict=True)) for row in zip(losses, costs, strict=True))
        - price * limit
        for price in (10 ** (-6 + i / 50) for i in range(200))
    )
    assert bound <= total <= bound * 1.001
