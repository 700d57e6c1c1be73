"""Lists of levels that an allocation may choose from, checked: N's of N:M, and low enough for the budget."""

from collections.abc import Sequence

from midstate.common import checks
from midstate.sparsity.allocation import Candidate, uniform_cost
from midstate.sparsity.nm import NM, Level
from midstate.sparsity.patterns import Pattern


def check_list(levels: object) -> None:
    """Raise ValueError unless these are levels, or None for those that the pattern has."""
    if levels is None:
        return
    if not isinstance(levels, list | tuple) or not levels:
        raise ValueError(f"levels={levels!r}: must be a list of levels such as [1,2,4,8], or null")
    for level in levels:
        checks.integer("levels", level, 1)


def check_within(levels: Sequence[int], pattern: NM) -> None:
    """Raise ValueError unless these are N's of a pattern, one of them no more than the uniform one."""
    for level in levels:
        checks.integer("levels", level, 1, pattern.m)
    if min(levels) > pattern.n:
        raise ValueError(f"levels={list(levels)}: all exceed the budget, uniform {pattern.label(pattern.n)}")


def check_lowest(pattern: Pattern, layers: Sequence[Candidate], lowest: Sequence[Level], budget: str) -> None:
    """Raise ValueError if even the lowest levels, one a layer, exceed the budget."""
    cost = sum(layer.cost(pattern, level, budget) for layer, level in zip(layers, lowest, strict=True))
    if cost > (limit := uniform_cost(pattern, layers, budget)):
        raise ValueError(
            f"allocation: the lowest levels cost {cost:,} {budget}, and the budget is {limit:,}; ask for less "
            "sparsity, or give lower levels"
        )
