"""Allocations: how much goes from each layer, as attainable levels of the pattern.

The budget of every allocation is what the uniform one keeps, so that arms are equal: in weights
(`params`) or in multiply-accumulates of an image (`macs`), both counted nominally (`Pattern.kept`). It is
never exceeded, and what is left over is less than one level of any layer that could still take one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern

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
