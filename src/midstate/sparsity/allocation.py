"""Allocations: how much goes from each layer, as attainable levels of the pattern.

The budget of every allocation is what the uniform one keeps, so that arms are equal: in weights
(`params`) or in multiply-accumulates of an image (`macs`), both counted nominally (`Pattern.kept`). It is
never exceeded, and what is left over is less than one level of any layer that could still take one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Generator, Tensor

from midstate.common import checks
from midstate.common.numbers import EPSILON, floor
from midstate.sparsity.nm import Level
from midstate.sparsity.patterns import Pattern

BUDGETS = ("params", "macs")


@dataclass(frozen=True)
class Candidate:
    """One layer as an allocation sees it. What has to be measured is measured when called."""

    name: str
    shape: torch.Size
    uses: int  # multiply-accumulates of one weight on one image
    is_first: bool
    is_classifier: bool
    weight: Tensor
    score: Callable[[], Tensor]  # of the pattern's units, by the method's criterion; a new tensor at each call
    loss: Callable[[Level], float]  # loss on training images with this layer alone at a level
    input_norm: Callable[[], Tensor]  # (C,)
    generator: Generator

    def cost(self, pattern: Pattern, level: Level, budget: str) -> int:
        """What a level costs, in `params`, `macs` or `units`."""
        if budget == "units" and pattern.name == "filter":
            return level
        return pattern.kept(self.shape, level) * (self.uses if budget == "macs" else 1)


def uniform_cost(pattern: Pattern, layers: Sequence[Candidate], budget: str) -> int:
    """What the uniform allocation costs: the budget of all others."""
    return sum(layer.cost(pattern, pattern.target(layer.shape), budget) for layer in layers)


class Allocation:
    """What every allocation has. Members add `allocate(pattern, layers)`."""

    refresh: ClassVar[str] = "never"  # never: from shapes alone; once: when pruning begins; tick: at every refresh
    uniform: ClassVar[bool] = False  # whether every layer has one level
    own_budget: ClassVar[bool] = False  # whether the uniform allocation is no more than a comparison
    searches: ClassVar[bool] = False  # whether training itself finds the levels, see `Domino`
    measures: ClassVar[bool] = False  # whether it may look at training images
    observes: str | None = None  # what else it looks at, as a criterion does
    by_filter: bool = False  # whether filters of one layer may have levels of their own

    def check(self, pattern: Pattern) -> None:
        """Raise ValueError if the allocation makes no sense for this pattern."""

    def check_layers(self, pattern: Pattern, layers: Sequence[Candidate]) -> None:
        """Raise ValueError if no allocation of these layers can meet the budget."""


@dataclass(frozen=True)
class Uniform(Allocation):
    """The same level in every layer (均匀剪枝)."""

    uniform: ClassVar[bool] = True

    def allocate(self, pattern: Pattern, layers: Sequence[Candidate]) -> list[Level]:
        """One target level a layer, in the same order."""
        return [pattern.target(layer.shape) for layer in layers]


@dataclass(frozen=True)
class UniformPlus(Allocation):
    """Uniform but for the ends: the first layer dense, a fifth of the classifier at least (Gale et al., 1902.09574)."""

    budget: str = "params"
    classifier_share: ClassVar[float] = 0.2

    def __post_init__(self) -> None:
        checks.one_of("budget", self.budget, BUDGETS)

    def allocate(self, pattern: Pattern, layers: Sequence[Candidate]) -> list[Level]:
        """One target level a layer.

        Raises:
            ValueError: neither end is in scope, or the ends alone exceed the budget.
        """
        if not any(layer.is_first or layer.is_classifier for layer in layers):
            raise ValueError(
                "allocation=uniform_plus treats the first layer and the classifier apart, and neither is in scope; "
                "use pruner/scope=all, or pruner/allocation=uniform"
            )
        lowest = [1.0 if layer.is_first else self.classifier_share if layer.is_classifier else 0.0 for layer in layers]
        return fit([1.0] * len(layers), lowest, pattern, layers, self.budget)


@dataclass(frozen=True)
class ERK(Allocation):
    """Density in proportion to (C_out + C_in + k_h + k_w) / (C_out * C_in * k_h * k_w) (Evci et al., arXiv 1911.11134).

    Layers that would exceed 1 are dense. Under `filter` the share of filters takes the place of density.
    """

    budget: str = "params"

    def __post_init__(self) -> None:
        checks.one_of("budget", self.budget, BUDGETS)

    def allocate(self, pattern: Pattern, layers: Sequence[Candidate]) -> list[Level]:
        """One target level a layer."""
        return fit(erk_densities(layers), [0.0] * len(layers), pattern, layers, self.budget)


def erk_densities(layers: Sequence[Candidate]) -> list[float]:
    """Relative densities of ERK: the sum of a weight's dimensions over their product."""
    return [sum(layer.shape) / layer.shape.numel() for layer in layers]


def fit(
    raw: Sequence[float], lowest: Sequence[float], pattern: Pattern, layers: Sequence[Candidate], budget: str
) -> list[Level]:
    """Turn relative densities into levels that meet the budget.

    Densities are those of `proportional`; a layer's level is its density rounded down to a level, at least
    1. What rounding left over then raises layers by one level each, those that lost most first.

    Args:
        raw: relative densities, 0 or more.
        lowest: densities no layer goes below.
        pattern: what levels mean.
        layers: shapes and costs.
        budget: `params` or `macs`.

    Raises:
        ValueError: the lowest levels already exceed the budget.
    """
    full = [pattern.full(layer.shape) for layer in layers]
    least = [max(1, ceil(low * size - EPSILON)) for low, size in zip(lowest, full, strict=True)]
    lowest = [level / size for level, size in zip(least, full, strict=True)]
    dense = [layer.cost(pattern, size, budget) for layer, size in zip(layers, full, strict=True)]
    density = proportional(raw, lowest, dense, uniform_cost(pattern, layers, budget), budget)
    wanted = [share * size for share, size in zip(density, full, strict=True)]
    return use_up([floor(level) for level in wanted], wanted, least, pattern, layers, budget)


def proportional(
    raw: Sequence[float], lowest: Sequence[float], dense: Sequence[int], limit: int, budget: str
) -> list[float]:
    """Densities min(1, max(lowest, scale * raw)) of the largest scale at which they cost no more than `limit`.

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
    layers: Sequence[Candidate],
    budget: str,
) -> list[int]:
    """Repair levels one at a time: lower them while the budget is exceeded, then raise them while it allows.

    What is furthest above `wanted` is lowered first (costs of padded groups are not in proportion to levels),
    never below `least`; what is furthest below it is raised first.
    """
    levels = list(levels)

    def step(i: int, change: int) -> int:
        return layers[i].cost(pattern, levels[i] + change, budget) - layers[i].cost(pattern, levels[i], budget)

    left = uniform_cost(pattern, layers, budget)
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


def compare_with_uniform(pattern: Pattern, layers: Sequence[Candidate], levels: Sequence[Level]) -> dict[str, float]:
    """How levels compare with the uniform ones.

    Returns:
        `params_slack` and `macs_slack`, the shares of the uniform allocation's weights and
        multiply-accumulates left unused (negative: more than uniform), counted nominally; `moved`, the share
        of prunable weights in layers (or filters) that left the uniform level.
    """
    report = {}
    for budget in BUDGETS:
        used = sum(layer.cost(pattern, level, budget) for layer, level in zip(layers, levels, strict=True))
        report[f"{budget}_slack"] = 1 - used / uniform_cost(pattern, layers, budget)
    moved = sum(
        layer.shape.numel() * float(torch.as_tensor(level).ne(pattern.target(layer.shape)).float().mean())
        for layer, level in zip(layers, levels, strict=True)
    )
    return {**report, "moved": moved / sum(layer.shape.numel() for layer in layers)}
