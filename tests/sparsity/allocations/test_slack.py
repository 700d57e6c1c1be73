"""Budgets that must be spent, and the worst scheme that spends them: against trying every choice."""

import itertools

import pytest
import torch
from conftest import composed
from torch import Generator

from midstate.common.errors import ConfigError
from midstate.runs.plan import Plan
from midstate.sparsity import NM, Budget
from midstate.sparsity.allocations import knapsack
from midstate.sparsity.allocations.base import uniform_cost
from midstate.sparsity.allocations.fitting import compare_with_uniform
from midstate.sparsity.allocations.knapsack import solve
from midstate.sparsity.layers import LayerView

LEVELS = (1, 2, 4, 8)
CHANNELS = ((16, 16), (16, 16), (32, 16), (32, 32), (64, 32), (64, 64))
USES = (36, 36, 9, 9, 4, 4)


def layers_of(seed: int = 0, channels=CHANNELS, uses=USES) -> list[LayerView]:
    """Layers with weights of uneven sizes, used less often the deeper they are."""
    draws = Generator().manual_seed(seed)
    return [
        LayerView(
            torch.randn(*shape, generator=draws) ** 3,
            name=f"layer{i}",
            index=i,
            macs=macs,
            score_of=lambda layer: layer.weight.abs(),
        )
        for i, (shape, macs) in enumerate(zip(channels, uses, strict=True))
    ]


def every_choice(pattern: NM, layers: list[LayerView], slack: float) -> dict[tuple[int, ...], float]:
    """Weight error of every scheme whose costs both lie within the slack of uniform's."""
    errors = [dict(zip(LEVELS, layer.filter_errors(pattern, LEVELS).sum(0).tolist(), strict=True)) for layer in layers]
    costs = {
        kind: [{level: layer.cost(pattern, level, kind) for level in LEVELS} for layer in layers]
        for kind in ("params", "macs")
    }
    limits = {kind: uniform_cost(pattern, layers, kind) for kind in costs}

    def total(rows, levels):
        return sum(row[level] for row, level in zip(rows, levels, strict=True))

    return {
        levels: total(errors, levels)
        for levels in itertools.product(LEVELS, repeat=len(layers))
        if all((1 - slack) * limits[kind] <= total(costs[kind], levels) <= limits[kind] for kind in costs)
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("slack", [0.0, 0.01, 0.1])
def test_the_best_and_the_worst_are_those_of_all_that_spend_both_budgets(seed, slack):
    pattern, layers = NM(2, 8), layers_of(seed)
    errors = every_choice(pattern, layers, slack)
    assert len(errors) > 1
    for worst, pick in ((False, min), (True, max)):
        levels = Budget("weight_error", LEVELS, "both", slack=slack, worst=worst).allocate(pattern, layers)
        assert tuple(levels) in errors
        assert errors[tuple(levels)] == pytest.approx(pick(errors.values()), abs=1e-3)
        compared = compare_with_uniform(pattern, layers, levels)
        assert all(0 <= compared[f"{kind}_slack"] <= slack + 1e-12 for kind in ("params", "macs"))


def test_without_a_slack_nothing_has_changed_and_with_all_of_it_neither():
    pattern, layers = NM(2, 8), layers_of()
    free = Budget("weight_error", LEVELS, "both").allocate(pattern, layers)
    assert Budget("weight_error", LEVELS, "both", slack=1.0).allocate(pattern, layers) == free


@pytest.mark.parametrize("worst", [False, True])
def test_filters_spend_both_budgets_too(worst):
    pattern, layers = NM(2, 8), layers_of()
    allocation = Budget("weight_error", LEVELS, "both", "filter", slack=0.01, worst=worst)
    levels = allocation.allocate(pattern, layers)
    compared = compare_with_uniform(pattern, layers, levels)
    assert all(0 <= compared[f"{kind}_slack"] <= 0.01 for kind in ("params", "macs"))
    by_layer = Budget("weight_error", LEVELS, "both", slack=0.01, worst=worst).allocate(pattern, layers)
    wide, narrow = (
        sum(
            float(layer.filter_errors(pattern, LEVELS)[torch.arange(len(layer.weight)), places(level, layer)].sum())
            for layer, level in zip(layers, each, strict=True)
        )
        for each in (levels, by_layer)
    )
    assert wide >= narrow - 1e-3 if worst else wide <= narrow + 1e-3


def places(level, layer: LayerView) -> torch.Tensor:
    """Where among LEVELS each filter's level is."""
    return torch.searchsorted(torch.tensor(LEVELS), torch.as_tensor(level).expand(len(layer.weight)).contiguous())


def test_the_solver_keeps_between_floors_and_limits():
    generator = Generator().manual_seed(0)
    for _ in range(30):
        losses = torch.rand(4, 3, generator=generator).tolist()
        costs = [torch.randint(1, 20, (4, 3), generator=generator).tolist() for _ in range(2)]
        limits = [sum(row[1] for row in rows) for rows in costs]
        floors = [int(0.8 * each) for each in limits]
        allowed = {
            choice: sum(losses[i][k] for i, k in enumerate(choice))
            for choice in itertools.product(range(3), repeat=4)
            if all(
                low <= sum(rows[i][k] for i, k in enumerate(choice)) <= high
                for rows, low, high in zip(costs, floors, limits, strict=True)
            )
        }
        chosen = tuple(solve(losses, costs, limits, floors))
        assert chosen in allowed
        assert allowed[chosen] == pytest.approx(min(allowed.values()), abs=1e-4)


def test_a_search_without_any_result_is_told(monkeypatch):
    """Four equations in 30 unknowns of 0 or 1, each as two limits (a market split problem)."""
    draws, costs, limits = Generator().manual_seed(0), [], []
    for row in torch.randint(100, (4, 30), generator=draws).tolist():
        costs += [[[0, each] for each in row], [[each, 0] for each in row]]
        limits += [sum(row) // 2, sum(row) - sum(row) // 2]
    monkeypatch.setattr(knapsack, "NODES", 20)
    with pytest.raises(ValueError, match="no choice of levels was found in 20 branchings; give fewer levels"):
        solve([[0.0, 0.0]] * 30, costs, limits)


def test_what_cannot_be_spent_is_refused_before_training():
    pattern = NM(3, 8)  # powers of two cannot make up 3/8 of two layers of these sizes to a hundredth
    layers = layers_of(channels=((16, 16), (16, 16)), uses=(1, 1))
    Budget("weight_error", LEVELS).check_layers(pattern, layers)
    with pytest.raises(ValueError, match=r"no choice of levels that costs 191 to 192; allow more slack"):
        Budget("weight_error", (2, 8), slack=0.01).check_layers(pattern, layers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("pruner.slack=-0.1", "slack=-0.1: must be a number from 0 to 1"),
        ("pruner.slack=much", "slack='much'"),
        ("pruner.worst=true", "worst=True: without a slack"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Plan.of(composed("pruner=nm_mixed", settings))


def test_its_settings_change_an_identity_where_they_are_set():
    same, spent, worst = (
        Plan.of(composed("pruner=nm_mixed", *more)).hash
        for more in (("pruner.slack=null",), ("pruner.slack=0.01",), ("pruner.slack=0.01", "pruner.worst=true"))
    )
    assert same == Plan.of(composed("pruner=nm_mixed")).hash
    assert len({same, spent, worst}) == 3
