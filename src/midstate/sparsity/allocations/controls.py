"""Control allocations: baselines that a good allocation has to beat, and one that has to do badly."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from midstate.common import limits
from midstate.sparsity.allocations.base import Allocation, limit, lowest_level
from midstate.sparsity.allocations.erk import erk_densities
from midstate.sparsity.allocations.fitting import fit
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class _Control(Allocation):
    """Base of the controls: they meet the same budget as any other allocation."""

    budget: str = "params"

    def __post_init__(self) -> None:
        limits.counted(vars(self))


@dataclass(frozen=True)
class RandomShares(_Control):
    """Density in proportion to a number drawn for each layer."""

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer."""
        raw = [torch.rand((), generator=layer.generator("allocation")).item() for layer in layers]
        return fit(raw, [0.0] * len(layers), pattern, layers, self.budget)


@dataclass(frozen=True)
class Reversed(_Control):
    """ERK's densities in reverse order of depth: the first layer gets the density of the last, and so on."""

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer."""
        return fit(erk_densities(layers)[::-1], [0.0] * len(layers), pattern, layers, self.budget)


@dataclass(frozen=True)
class Collapsed(_Control):
    """All pruning in as few layers as possible, from the first on, down to the lowest level; the others stay dense."""

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer."""
        levels = [pattern.full(layer.shape) for layer in layers]
        allowed, lowest = limit(pattern, layers, self.budget), lowest_level(pattern)
        for i, layer in enumerate(layers):
            others = sum(layers[j].cost(pattern, levels[j], self.budget) for j in range(len(layers)) if j != i)
            choices = range(lowest, levels[i] + 1)
            # The highest level at which the budget is met beside the others' present levels; the lowest if none is.
            fitting = bisect_right(choices, allowed - others, key=lambda k, at=layer: at.cost(pattern, k, self.budget))
            levels[i] = max(lowest, lowest - 1 + fitting)
        return levels
