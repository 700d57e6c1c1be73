"""Budgets of filters that are counted on the extracted network, which is the network without its dead channels.

Such a cost is not a sum over layers. So the allocation gives levels under many nominal budgets, and the largest budget
is taken whose extracted network is not larger than the uniform allocation's. Single filters then use up the rest.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from midstate.sparsity.allocations.base import EXTRACTED, Allocation
from midstate.sparsity.kernels.selection import Unrankable
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern

log = logging.getLogger(__name__)
LEAST = 0.99  # share of the budget that must be spent
NEXT = 1.1  # the repair looks at levels for NEXT times the nominal budget that was found, and for 1 / NEXT of it
Levels = list[int]
Sizes = Callable[[Sequence[int]], Mapping[str, int]]  # from levels to `params` and `macs` of the extracted network
Cost = Callable[[Sequence[int]], int]


class OutOfReach(ValueError):
    """No levels of an allocation come near enough to its budget."""


class Within:
    """A pattern with a nominal budget of its own, see `base.limit`."""

    def __init__(self, pattern: Pattern, allowed: int) -> None:
        self._pattern, self._allowed = pattern, allowed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pattern, name)

    def limit(self, layers: Sequence[LayerView], budget: str) -> int:
        """The budget."""
        return self._allowed


def is_extracted(allocation: Allocation | None) -> bool:
    """Tell whether an allocation's budget is counted on the extracted network."""
    return getattr(allocation, "budget", None) in EXTRACTED


def counted_nominally(allocation: Allocation) -> Allocation:
    """The same allocation under the nominal budget of the same kind."""
    return replace(allocation, budget=EXTRACTED[allocation.budget]) if is_extracted(allocation) else allocation


def allocate_extracted(
    allocation: Allocation, pattern: Pattern, layers: Sequence[LayerView], sizes: Sizes
) -> tuple[Levels, Mapping[str, int]]:
    """Find levels whose extracted network is as large as the uniform allocation's, or smaller by 1 % at most.

    Args:
        allocation: with a budget among `EXTRACTED`.
        pattern: of filters.
        layers: in scope.
        sizes: gives the sizes of the extracted network at levels, one a layer.

    Returns:
        One target level a layer, and the sizes of the uniform allocation's extracted network.

    Raises:
        OutOfReach: no levels were found that cost 99 to 100 % of the budget.
    """
    kind, known = EXTRACTED[allocation.budget], {}

    def cost(levels: Sequence[int]) -> int:
        key = tuple(levels)
        if key not in known:
            known[key] = sizes(levels)
        return known[key][kind]

    uniform = [pattern.target(layer.shape) for layer in layers]
    full = [pattern.full(layer.shape) for layer in layers]
    dense = sum(layer.cost(pattern, level, kind) for layer, level in zip(layers, full, strict=True))
    family = _family(counted_nominally(allocation), pattern, layers, dense)
    allowed = cost(uniform)
    most = _largest(family, lambda levels: cost(levels) <= allowed, dense)
    if (levels := family(most)) is None:
        least = cost(family(most + 1))
        raise OutOfReach(
            f"{_spent(allocation.budget, least, allowed)}, at the least it may keep; ask for less sparsity"
        )
    wanted, lower = family(min(dense, round(NEXT * most))), family(round(most / NEXT)) or levels
    levels = _repaired(levels, (lower, wanted, full), cost, allowed)
    if cost(levels) < LEAST * allowed:
        raise OutOfReach(
            f"{_spent(allocation.budget, cost(levels), allowed)}, and no filter more or less brings it to "
            f"{100 * LEAST:g} to 100 %; ask for another sparsity, or for the nominal budget={kind}"
        )
    found, reference = known[tuple(levels)], known[tuple(uniform)]
    shares = ", ".join(f"{100 * found[each] / reference[each]:.2f} % of its {each}" for each in EXTRACTED.values())
    log.info(f"extracted, this allocation keeps {shares} (of the uniform one's; {len(known)} networks were counted)")
    return levels, reference


def _family(
    allocation: Allocation, pattern: Pattern, layers: Sequence[LayerView], dense: int
) -> Callable[[int], Levels | None]:
    """Map a nominal budget to levels, or to None if no levels cost so little; `dense` is the cost of all filters."""

    def levels(allowed: int) -> Levels | None:
        try:
            return allocation.allocate(Within(pattern, allowed), layers)
        except Unrankable:
            raise
        except ValueError:
            if allowed >= dense:
                raise
            return None

    return levels


def _largest(family: Callable[[int], Levels | None], fits: Callable[[Levels], bool], dense: int) -> int:
    """Bisect for the largest nominal budget whose levels fit; budgets without levels count as fitting."""
    if fits(family(dense)):
        return dense
    low, high = 0, dense
    while high - low > 1:
        middle = (low + high) // 2
        levels = family(middle)
        low, high = (middle, high) if levels is None or fits(levels) else (low, middle)
    return low


def _repaired(levels: Levels, bounds: tuple[Levels, Levels, Levels], cost: Cost, allowed: int) -> Levels:
    """Raise levels by single filters; if too little is spent then, lower one layer by a filter first, and try again.

    Args:
        levels: that cost no more than `allowed`.
        bounds: levels of the allocation under a smaller and under a larger budget, and full levels.
        cost: of levels.
        allowed: the budget.
    """
    lower, wanted, full = bounds
    best = _filled(levels, wanted, full, cost, allowed)
    for i in sorted(range(len(levels)), key=lambda i: wanted[i] - levels[i]):
        if cost(best) >= LEAST * allowed:
            break
        if lower[i] < levels[i]:
            filled = _filled(_moved(levels, i, -1), wanted, full, cost, allowed, i)
            best = max(best, filled, key=cost)
    return best


def _filled(
    levels: Levels, wanted: Levels, full: Levels, cost: Cost, allowed: int, spared: int | None = None
) -> Levels:
    """Raise levels by one filter while the budget allows, those furthest below `wanted` first.

    Layers that are not below it are raised only until LEAST is spent, and layer `spared` is never raised.
    """
    raised = True
    while raised:
        raised = False
        for i in sorted(range(len(levels)), key=lambda i: levels[i] - wanted[i]):
            enough = levels[i] >= wanted[i] and cost(levels) >= LEAST * allowed
            if i == spared or levels[i] == full[i] or enough:
                continue
            if cost(more := _moved(levels, i, 1)) <= allowed:
                levels, raised = more, True
    return levels


def _moved(levels: Levels, i: int, by: int) -> Levels:
    return [*levels[:i], levels[i] + by, *levels[i + 1 :]]


def _spent(budget: str, cost: int, allowed: int) -> str:
    return (
        f"budget={budget!r}: reached {cost:,} of {allowed:,}, {100 * cost / allowed:.2f} % of the uniform allocation's"
    )
