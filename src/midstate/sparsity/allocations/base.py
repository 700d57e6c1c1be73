"""Allocations: how much goes from each layer, as attainable levels of the pattern.

The budget of every allocation is what the uniform one keeps, so that arms are equal: in weights
(`params`) or in multiply-accumulates of an image (`macs`), both counted nominally (`Pattern.kept`). It is
never exceeded, and what is left over is less than one level of any layer that could still take one. Filters can be
counted without dead channels, too (`extracted`). A quantizer in the place of a pattern says itself what the budget is
(`limit`), and counts in `size`, `bitops` or `latency`.
"""

from collections.abc import Sequence
from typing import ClassVar

from midstate.common import limits
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern

BUDGETS, COMBINED, EXTRACTED = limits.BUDGETS, limits.COMBINED, limits.EXTRACTED


def limit(pattern: Pattern, layers: Sequence[LayerView], budget: str) -> int:
    """The budget: what the pattern itself says (a quantizer), else the cost of the uniform allocation."""
    own = getattr(pattern, "limit", None)
    return uniform_cost(pattern, layers, budget) if own is None else own(layers, budget)


def budgets_of(pattern: Pattern) -> tuple[str, ...]:
    """Names of what the levels of a pattern can be counted in."""
    return getattr(pattern, "budgets", BUDGETS)


def has_budget(pattern: Pattern, budget: str) -> bool:
    """Tell whether levels of a pattern can be counted in a budget, or in all of a combined one."""
    if budget in EXTRACTED:
        return pattern.unit == "filter"
    counted = budgets_of(pattern)
    return all(each in counted or (each == "units" and "params" in counted) for each in COMBINED.get(budget, (budget,)))


def lowest_level(pattern: Pattern) -> int:
    """The least level that a layer may have: 1, or what the pattern itself says (bits of a grid may begin at 2)."""
    return getattr(pattern, "lowest", 1)


def options_of(pattern: Pattern, layer: LayerView, levels: Sequence[int] | None) -> list[Level]:
    """The levels a layer may have, lowest first.

    Args:
        pattern: what levels mean.
        layer: of any shape.
        levels: those to choose from; what is above the layer's full level counts as that. Where levels are pairs, both
            of a pair are of these. None: all of the pattern's.

    Raises:
        ValueError: none of them is a level of the layer.
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
    uniform: ClassVar[bool] = False  # whether every layer has one level
    own_budget: ClassVar[bool] = False  # whether the uniform allocation is no more than a comparison
    searches: ClassVar[bool] = False  # whether training itself finds the levels, see `Domino`
    needs: tuple[str, ...] = ()  # what it looks at besides weights and scores, from `NEEDS`
    patterns: ClassVar[tuple[str, ...]] = ()  # names of those it makes sense for; none: all
    pairs: ClassVar[bool] = False  # whether it can choose pairs of levels, such as bits of weights and of inputs
    coupled: ClassVar[bool] = False  # whether what it counts and compares may be coupled channels of several layers
    by_filter: bool = False  # whether filters of one layer may have levels of their own

    def check_layers(self, pattern: Pattern, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if no allocation of these layers can meet the budget, or if it counts what there is not."""
        check_budget(pattern, getattr(self, "budget", None))


def check_budget(pattern: Pattern, budget: str | None) -> None:
    """Raise ValueError if levels of a pattern cannot be counted in a budget; None: there is none."""
    if budget is not None and not has_budget(pattern, budget):
        raise ValueError(f"budget={budget!r}: must be one of {', '.join(budgets_of(pattern))} with {pattern.name}")
