"""The multiple-choice knapsack: one option an item, the least total loss within limits on costs.

It is solved by scipy.optimize.milp (HiGHS) to proven optimality; with more than EXACT items to a relative gap of 1e-6,
and never with more than NODES branchings.
"""

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from midstate.sparsity.kernels.selection import Unrankable
from midstate.sparsity.patterns.nm import Level

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
SCALE = 1e5  # losses are scaled to this maximum: the solver's absolute gap is 1e-6
EXACT = 500  # most items that are solved to optimality; with more, such as filters, the proof could take forever
NODES = 5000  # most branchings: with a hundred levels a layer the last 0.01 % could take hours


def monotone(losses: Sequence[float], levels: Sequence[Level]) -> "np.ndarray":
    """Lower the losses of one layer's options so that no higher level is worse: measured losses are noisy.

    A level is higher than another where no component is lower: (8, 4) and (4, 8) are not compared.

    Args:
        losses: one an option; NaN stays NaN.
        levels: of the options, in any order, numbers or tuples of them.
    """
    import numpy as np

    numbers = np.asarray(levels).reshape(len(levels), -1)
    no_higher = (numbers[:, None] <= numbers[None]).all(2)
    return np.where(no_higher, np.asarray(losses, dtype=float)[:, None], math.inf).min(0)


def solve(
    losses: Sequence[Sequence[float]],
    costs: Sequence[Sequence[Sequence[int]]],
    limits: Sequence[int],
    floors: Sequence[int] | None = None,
) -> list[int]:
    """Choose one option an item so that the losses' sum is least and no sum of costs exceeds its limit.

    Among choices that are equal to a hundred-thousandth of the largest loss the most expensive wins. So with losses
    from `monotone`, what is left of the limits is never enough for one more level of anything.

    Args:
        losses: one row an item, one loss an option, in any order.
        costs: for each limit, rows as in `losses`; whole numbers.
        limits: one or more.
        floors: what each sum of costs must reach; None: nothing.

    Returns:
        The index of each item's option: an optimum, or the best of `NODES` branchings.

    Raises:
        ValueError: no choice meets the limits and floors, or none was found.
        Unrankable: a loss is not finite.
    """
    import numpy as np
    from scipy.optimize import LinearConstraint, milp
    from scipy.sparse import csr_array

    if not all(math.isfinite(loss) for row in losses for loss in row):
        raise Unrankable("measured losses are not finite numbers: they cannot be ranked")
    flat = np.concatenate([np.asarray(row, dtype=float) for row in losses])
    item = np.repeat(np.arange(len(losses)), [len(row) for row in losses])
    one_each = csr_array((np.ones(len(flat)), (item, np.arange(len(flat)))))
    constraints = [LinearConstraint(one_each, 1, 1)]
    objective = SCALE * flat / (np.abs(flat).max() or 1.0)
    flat_costs = [np.concatenate(rows) for rows in costs]
    floors = [0] * len(limits) if floors is None else floors
    for cost, allowed, least in zip(flat_costs, limits, floors, strict=True):
        objective -= SCALE * 1e-5 * cost / max(1, allowed)
        unit = np.gcd.reduce(cost) or 1  # small whole numbers: the solver's tolerance is absolute
        low = -(-least // unit) if least else -np.inf
        constraints.append(LinearConstraint((cost // unit)[None], low, allowed // unit))
    gap = 0 if len(losses) <= EXACT else 1e-6
    options = {"mip_rel_gap": gap, "node_limit": NODES}
    found = milp(objective, integrality=1, bounds=(0, 1), constraints=constraints, options=options)
    if found.x is None:
        raise ValueError(_refusal(limits, floors, found.status == 2))
    if not found.success:  # NODES limits branchings, not time: the same choice on every machine
        log.info(f"the solver's choice is within {100 * found.mip_gap:.2g} % of the best")
    chosen = np.flatnonzero(found.x > 0.5)
    for cost, allowed, least in zip(flat_costs, limits, floors, strict=True):
        assert least <= cost[chosen].sum() <= allowed, "the solver left the budget"
    starts = np.concatenate([[0], np.cumsum([len(row) for row in losses])[:-1]])
    return (chosen - starts).tolist()


def _refusal(limits: Sequence[int], floors: Sequence[int], proven: bool) -> str:
    if not any(floors):
        met = "meets the budget" if proven else f"was found in {NODES:,} branchings; give fewer levels"
        return f"allocation: no choice of levels {met}"
    ranges = " and ".join(f"{low:,} to {high:,}" for low, high in zip(floors, limits, strict=True))
    there = "there is no choice of levels" if proven else f"no choice of levels was found in {NODES:,} branchings"
    return f"allocation: {there} that costs {ranges}; allow more slack, or give more levels"
