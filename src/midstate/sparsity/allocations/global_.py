"""Allocations that rank the units of all layers together: a layer keeps those among the best of the network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import limits
from midstate.common.numbers import floor
from midstate.sparsity.allocations.base import Allocation, check_budget, limit, lowest_level
from midstate.sparsity.allocations.fitting import use_up
from midstate.sparsity.kernels.selection import count_largest, refuse_nan
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern

CHUNK = 2**17  # scores whose fp64 sums are in memory at a time
TINY = torch.finfo(torch.float32).tiny  # smallest divisor: a layer of zeros scores 0


@dataclass(frozen=True)
class Global(Allocation):
    """One threshold on the scores of the whole network; each layer keeps as many units as lie above it.

    Args:
        normalise: `none`, scores as they are; `mean`, divided by their layer's mean first: norms of filters
            with different fan-in cannot be compared otherwise.
        refresh: `once`, when pruning begins; `tick`, at every refresh, so that units move between layers.
        min_density: share of its units that every layer keeps at least; one level is always kept.
        budget: what the budget counts, `params`, `macs` or `units` (filters, whatever their size; else weights).
    """

    coupled: ClassVar[bool] = True
    normalise: str = "none"
    refresh: str = "tick"
    min_density: float = 0.001
    budget: str = "params"

    def __post_init__(self) -> None:
        limits.global_(vars(self))

    def check_layers(self, pattern: Pattern, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if the floor alone exceeds the budget, or if the pattern has no such budget."""
        check_budget(pattern, self.budget)
        floors_of(pattern, layers, self.min_density, self.budget)

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer.

        Raises:
            ValueError: the floor alone exceeds the budget, or scores contain NaN.
        """
        return ranked(pattern, layers, self.make_comparable, self.min_density, self.budget)

    def make_comparable(self, score: Tensor) -> None:
        """Change one layer's scores, in place, into what is compared between layers; their order may change."""
        if self.normalise == "mean":
            score.div_(score.mean().clamp_min(TINY))


def ranked(
    pattern: Pattern,
    layers: Sequence[LayerView],
    make_comparable: Callable[[Tensor], None],
    min_density: float,
    budget: str,
) -> list[Level]:
    """Levels from one ranking of all units, no layer below its floor.

    A layer that would fall below its floor is set to it and taken out, and the others are ranked again for
    what is left of the budget. Where a level is more than one unit (N:M), the count is rounded down to a
    level, and the budget left over raises the layers that lost most.
    """
    allowed = limit(pattern, layers, budget)
    floors = floors_of(pattern, layers, min_density, budget)
    scores = [partial(_comparable, layer, make_comparable) for layer in layers]
    full = [pattern.full(layer.shape) for layer in layers]
    sizes = [layer.num_units(pattern) for layer in layers]
    # What one scored unit costs: a weight, or a filter.
    unit = [layer.cost(pattern, level, budget) // size for layer, level, size in zip(layers, full, sizes, strict=True)]
    wanted: dict[int, float] = {}
    at_floor: list[int] = []
    while len(at_floor) < len(layers):
        free = [i for i in range(len(layers)) if i not in at_floor]
        left = allowed - sum(layers[i].cost(pattern, floors[i], budget) for i in at_floor)
        counts = count_largest(*([each[i] for i in free] for each in (scores, sizes, unit)), left)
        wanted = {i: count * full[i] / sizes[i] for i, count in zip(free, counts, strict=True)}
        below = [i for i in free if wanted[i] < floors[i]]
        if not below:
            break
        at_floor += below
    aims = [wanted[i] if i not in at_floor else floors[i] for i in range(len(layers))]
    return use_up([floor(aim) for aim in aims], aims, floors, pattern, layers, budget)


def floors_of(pattern: Pattern, layers: Sequence[LayerView], min_density: float, budget: str) -> list[int]:
    """The least level of every layer.

    Raises:
        ValueError: they alone exceed the budget.
    """
    floors = [max(lowest_level(pattern), floor(min_density * pattern.full(layer.shape))) for layer in layers]
    lowest = sum(layer.cost(pattern, least, budget) for layer, least in zip(layers, floors, strict=True))
    if lowest > (allowed := limit(pattern, layers, budget)):
        raise ValueError(
            f"min_density={min_density}: this floor alone costs {lowest:,} {budget}, and the budget is {allowed:,}"
        )
    return floors


def _comparable(layer: LayerView, make_comparable: Callable[[Tensor], None]) -> Tensor:
    """One layer's scores as they are compared with those of others, as a vector."""
    score = layer.score().flatten().float()
    refuse_nan(score)
    make_comparable(score)
    return score
