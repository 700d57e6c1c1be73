"""Allocations: how much goes from each layer, as attainable levels of the pattern.

The budget of every allocation but `Scheme` is what the uniform one keeps, so that arms are equal: in weights
(`params`) or in multiply-accumulates of an image (`macs`), both counted nominally (`Pattern.kept`). It is never
exceeded; `fit` and `ranked` leave less than one level of any layer that is not full. Filters can be counted without
dead channels, too (`extracted`). A quantizer in the place of a pattern gives the budget itself (`limit`), and counts in
`size`, `bitops` or `latency`.
"""

from collections.abc import Sequence
from typing import ClassVar

from midstate.common import limits
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern

BUDGETS, COMBINED, EXTRACTED = limits.BUDGETS, limits.COMBINED, limits.EXTRACTED


def limit(pattern: Pattern, layers: Sequence[LayerView], budget: str) -> int:
    """The budget: the pattern's own `limit` if it has one (a quantizer), else the cost of the uniform allocation."""
    own = getattr(pattern, "limit", None)
    return uniform_cost(pattern, layers, budget) if own is None else own(layers, budget)


def budgets_of(pattern: Pattern) -> tuple[str, ...]:
    """Names of the budgets that can count a pattern's levels."""
    return getattr(pattern, "budgets", BUDGETS)


def has_budget(pattern: Pattern, budget: str) -> bool:
    """Tell whether levels of a pattern can be counted in a budget, or in all parts of a combined one."""
    if budget in EXTRACTED:
        return pattern.unit == "filter"
    counted = budgets_of(pattern)
    return all(each in counted or (each == "units" and "params" in counted) for each in COMBINED.get(budget, (budget,)))


def lowest_level(pattern: Pattern) -> int:
    """The lowest level that a layer may have: the pattern's own `lowest` (bits of a grid may begin at 2), else 1."""
    return getattr(pattern, "lowest", 1)


def options_of(pattern: Pattern, layer: LayerView, levels: Sequence[int] | None) -> list[Level]:
    """The levels a layer may have, lowest first.

    Args:
        pattern: defines the levels.
        layer: of any shape.
        levels: levels to choose from; those above the layer's full level are replaced by it. Where levels are pairs,
            both numbers of a pair must be among these. None: all of the pattern's.

    Raises:
        ValueError: no pair of the layer consists of these numbers.
    """
    choices, full = pattern.choices(layer.shape), pattern.full(layer.shape)
    if levels is None:
        return sorted(set(choices))
    if not isinstance(full, tuple):
        return sorted({min(level, full) for level in levels})
    if not (found := sorted({choice for choice in choices if set(choice) <= set(levels)})):
        raise ValueError(f"levels={list(levels)}: {layer.name} has no pair of these; its levels are {choices}")
    return found


def uniform_cost(pattern: Pattern, layers: Sequence[LayerView], budget: str) -> int:
    """Cost of the uniform allocation: the budget of all others under a pattern of weights."""
    return sum(layer.cost(pattern, pattern.target(layer.shape), budget) for layer in layers)


class Allocation:
    """Base of allocations; members add `allocate(pattern, layers)`, which returns one level a layer.

    Protocol: `check_layers` is called when the pruner is attached; `allocate` then (`refresh=never`), when pruning
    begins (`once`), or at every refresh (`tick`).
    """

    refresh: ClassVar[str] = "never"  # never: from shapes alone; once: when pruning begins; tick: at every refresh
    uniform: ClassVar[bool] = False  # whether every layer has the same level
    own_budget: ClassVar[bool] = False  # whether the cost of the uniform allocation does not bind it
    searches: ClassVar[bool] = False  # whether training itself finds the levels, see `Domino`
    needs: tuple[str, ...] = ()  # measurements that it reads besides weights and scores, from `NEEDS`
    patterns: ClassVar[tuple[str, ...]] = ()  # names of the patterns it works with; empty: all
    pairs: ClassVar[bool] = False  # whether its levels can be pairs, such as bits of weights and of inputs
    coupled: ClassVar[bool] = False  # whether it can count and compare coupled channels of several layers
    by_filter: bool = False  # whether filters of one layer may have levels of their own

    def check_layers(self, pattern: Pattern, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if the pattern has no such budget; members may also check that it can be met."""
        check_budget(pattern, getattr(self, "budget", None))


def check_budget(pattern: Pattern, budget: str | None) -> None:
    """Raise ValueError if levels of a pattern cannot be counted in a budget; None: there is none."""
    if budget is not None and not has_budget(pattern, budget):
        raise ValueError(f"budget={budget!r}: must be one of {', '.join(budgets_of(pattern))} with {pattern.name}")
