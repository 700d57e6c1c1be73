"""From real-valued densities to attainable levels that meet a budget."""

from collections.abc import Sequence
from math import ceil

import torch

from midstate.common.numbers import EPSILON, floor
from midstate.sparsity.allocations.base import budgets_of, limit, lowest_level, uniform_cost
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern


def fit(
    raw: Sequence[float], lowest: Sequence[float], pattern: Pattern, layers: Sequence[LayerView], budget: str
) -> list[Level]:
    """Turn relative densities into levels that meet the budget.

    Densities are those of `proportional`; a layer's level is its density rounded down to a level, at least
    the lowest. The rest of the budget raises layers by one level at a time, those that lost most first.

    Args:
        raw: relative densities, 0 or more.
        lowest: densities no layer goes below.
        pattern: defines the levels.
        layers: shapes and costs.
        budget: `params` or `macs`, or what a quantizer counts in.

    Raises:
        ValueError: the lowest levels already exceed the budget.
    """
    full = [pattern.full(layer.shape) for layer in layers]
    floor_of_all = lowest_level(pattern)
    least = [max(floor_of_all, ceil(low * size - EPSILON)) for low, size in zip(lowest, full, strict=True)]
    lowest = [level / size for level, size in zip(least, full, strict=True)]
    dense = [layer.cost(pattern, size, budget) for layer, size in zip(layers, full, strict=True)]
    if hasattr(pattern, "limit"):
        check_lowest(pattern, layers, least, budget)
    density = proportional(raw, lowest, dense, limit(pattern, layers, budget), budget)
    wanted = [share * size for share, size in zip(density, full, strict=True)]
    return use_up([floor(level) for level in wanted], wanted, least, pattern, layers, budget)


def proportional(
    raw: Sequence[float], lowest: Sequence[float], dense: Sequence[int], limit: int, budget: str
) -> list[float]:
    """Densities min(1, max(lowest, scale * raw)), with the largest scale at which they cost no more than `limit`.

    Args:
        raw: relative densities, 0 or more.
        lowest: densities no layer goes below.
        dense: what each layer costs when dense.
        limit: the budget.
        budget: its name, for the message.

    Raises:
        ValueError: `lowest` alone costs more than the limit.
    """

    def densities(scale: float) -> list[float]:
        return [min(1.0, max(low, scale * each)) for each, low in zip(raw, lowest, strict=True)]

    def cost(scale: float) -> float:
        return sum(share * size for share, size in zip(densities(scale), dense, strict=True))

    if cost(0) > limit + 1e-6:
        raise ValueError(
            f"allocation: the least it may keep costs {cost(0):,.0f} {budget}, and the budget is {limit:,}; "
            "ask for less sparsity"
        )
    low, high = 0.0, 1 / min((each for each in raw if each > 0), default=1.0)
    for _ in range(100):  # to the last bit of the scale
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= limit else (low, middle)
    return densities(high if cost(high) <= limit else low)


def use_up(
    levels: Sequence[int],
    wanted: Sequence[float],
    least: Sequence[int],
    pattern: Pattern,
    layers: Sequence[LayerView],
    budget: str,
) -> list[int]:
    """Repair levels one at a time: lower them while the budget is exceeded, then raise them while it allows.

    The layer furthest above `wanted` is lowered first, never below `least`; the one furthest below it is raised first.
    (Costs of padded groups are not in proportion to levels, so levels rounded down may exceed the budget.)

    Raises:
        ValueError: the least levels exceed the budget.
    """
    levels = list(levels)

    def step(i: int, change: int) -> int:
        return layers[i].cost(pattern, levels[i] + change, budget) - layers[i].cost(pattern, levels[i], budget)

    left = limit(pattern, layers, budget)
    left -= sum(layer.cost(pattern, level, budget) for layer, level in zip(layers, levels, strict=True))
    while left < 0:
        above = [i for i in range(len(layers)) if levels[i] > least[i]]
        if not above:
            raise ValueError("allocation: the least it may keep exceeds the budget; ask for less sparsity")
        i = max(above, key=lambda i: levels[i] - wanted[i])
        left -= step(i, -1)
        levels[i] -= 1
    raised = True
    while raised:
        raised = False
        for i in sorted(range(len(layers)), key=lambda i: levels[i] - wanted[i]):
            if levels[i] < pattern.full(layers[i].shape) and step(i, 1) <= left:
                left -= step(i, 1)
                levels[i] += 1
                raised = True
    return levels


def compare_with_uniform(pattern: Pattern, layers: Sequence[LayerView], levels: Sequence[Level]) -> dict[str, float]:
    """How levels compare with the uniform ones.

    Returns:
        `params_slack` and `macs_slack` (or other budgets of the pattern), the shares of the uniform allocation's cost
        left unused (negative: more than uniform), counted nominally; `moved`, the share of prunable weights in layers
        (or filters) that left the uniform level.
    """
    report = {}
    for budget in budgets_of(pattern):
        used = sum(layer.cost(pattern, level, budget) for layer, level in zip(layers, levels, strict=True))
        report[f"{budget}_slack"] = 1 - used / uniform_cost(pattern, layers, budget)
    uniform = [torch.as_tensor(pattern.target(layer.shape)) for layer in layers]
    moved = sum(
        layer.shape.numel() * float(torch.as_tensor(level).ne(target).float().mean())
        for layer, level, target in zip(layers, levels, uniform, strict=True)
    )
    return {**report, "moved": moved / sum(layer.shape.numel() for layer in layers)}


def check_lowest(pattern: Pattern, layers: Sequence[LayerView], lowest: Sequence[Level], budget: str) -> None:
    """Raise ValueError if even the lowest levels, one a layer, exceed the budget."""
    cost = sum(layer.cost(pattern, level, budget) for layer, level in zip(layers, lowest, strict=True))
    if cost > (allowed := limit(pattern, layers, budget)):
        more = (
            "a larger target, or lower levels" if hasattr(pattern, "limit") else "less sparsity, or give lower levels"
        )
        raise ValueError(
            f"allocation: the lowest levels cost {cost:,} {budget}, and the budget is {allowed:,}; ask for {more}"
        )
