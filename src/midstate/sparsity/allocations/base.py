"""Allocations: how much goes from each layer, as attainable levels of the pattern.

The budget of every allocation is what the uniform one keeps, so that arms are equal: in weights
(`params`) or in multiply-accumulates of an image (`macs`), both counted nominally (`Pattern.kept`). It is
never exceeded, and what is left over is less than one level of any layer that could still take one.
"""

from collections.abc import Sequence
from typing import ClassVar

from midstate.common import limits
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern

BUDGETS = limits.BUDGETS


def uniform_cost(pattern: Pattern, layers: Sequence[LayerView], budget: str) -> int:
    """Cost of the uniform allocation: the budget of all others."""
    return sum(layer.cost(pattern, pattern.target(layer.shape), budget) for layer in layers)


class Allocation:
    """Base of allocations; members add `allocate(pattern, layers)`, which returns one level a layer.

    Protocol: `check_layers` is called when the pruner is attached; `allocate` then (`refresh=never`), when pruning
    begins (`once`), or at every refresh (`tick`).
    """

    refresh: ClassVar[str] = "never"  # never: from shapes alone; once: when pruning begins; tick: at every refresh
    uniform: ClassVar[bool] = False  # whether every layer has one level
    own_budget: ClassVar[bool] = False  # whether the uniform allocation is no more than a comparison
    searches: ClassVar[bool] = False  # whether training itself finds the levels, see `Domino`
    needs: tuple[str, ...] = ()  # what it looks at besides weights and scores, from `NEEDS`
    patterns: ClassVar[tuple[str, ...]] = ()  # names of those it makes sense for; none: all
    by_filter: bool = False  # whether filters of one layer may have levels of their own

    def check_layers(self, pattern: Pattern, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if no allocation of these layers can meet the budget."""
