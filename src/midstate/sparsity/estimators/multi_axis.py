"""MaxQ's soft mask: kept weights scaled by their magnitude within filters and kernel positions."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from midstate.common import checks
from midstate.sparsity.estimators.base import Memory
from midstate.sparsity.estimators.sr_ste import SRSTE
from midstate.sparsity.kernels.selection import around, keep_largest, refuse_nan
from midstate.sparsity.paths.blocks import block_nm_mask
from midstate.sparsity.patterns.nm import Level, rankable
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class MultiAxis(SRSTE):
    """MaxQ's soft multi-axis mask: kept weights times 1 + s (see `multi_axis_mask`), SR-STE's gradient and decay.

    The gradient is neither masked nor scaled. `finalise` folds the factors into the weights.
    """

    tau: float = 1e-2
    scales: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("tau", self.tau, 1e-12)

    def scale(self, weight: Tensor, mask: Tensor, pattern: Pattern, level: Level, memory: Memory) -> Tensor:
        """Factor on every weight."""
        return axis_scale(weight, level, pattern.m, self.tau)


def multi_axis_mask(
    weight: Tensor,
    n: int,
    m: int,
    p: float = 1.0,
    order: str = "default",
    tau: float = 1e-2,
    generator: Generator | None = None,
) -> Tensor:
    """MaxQ's soft mask: block_nm_mask * (1 + s_filter + s_position).

    Args:
        weight: (O, C) or (O, C, *K), C divisible by m.
        n: kept per block under N:M, 1..m; n == m gives ones at every p.
        m: block size.
        p: progress of the block-progressive ramp; thresholds of s use the final share at every p, so that p=0
            gives 1 + s, not ones.
        order: see `block_nm_mask`.
        tau: softness, above 0.
        generator: source of a random order.

    Returns:
        Float tensor of weight's shape, 0 where masked, else from 1 to 3 (to 2 without kernel positions).

    Raises:
        ValueError: as `block_nm_mask`, or tau not above 0.
    """
    return block_nm_mask(weight, n, m, p, order, generator) * axis_scale(rankable(weight), n, m, tau)


def axis_scale(weight: Tensor, n: int, m: int, tau: float = 1e-2) -> Tensor:
    """1 + s_filter + s_position, the factor on kept weights; rows are filters and, beyond 1x1, kernel positions."""
    checks.number("tau", tau, 1e-12)
    magnitude = weight.detach().abs()
    scale = torch.ones_like(magnitude)
    if n == m:
        return scale
    _add_soft(scale, magnitude, magnitude.flatten(1), n, m, tau)
    if magnitude[0, 0].numel() > 1:
        _add_soft(scale, magnitude, magnitude.flatten(2).permute(2, 0, 1).flatten(1), n, m, tau, positions=True)
    return scale


def _add_soft(
    scale: Tensor, magnitude: Tensor, rows: Tensor, n: int, m: int, tau: float, positions: bool = False
) -> None:
    """Add s of every row: 0 for the k smallest, else sigmoid((|w| - thr) / tau), thr midway between k-th and next.

    Rows are filters or, transposed, kernel positions; `scale` and `magnitude` keep the layout of the weights.
    """
    length = rows.shape[1]
    k = (m - n) * length // m
    if k in (0, length):  # a row that is too short to lose a weight, or that loses all
        return
    above, below = around(rows, length - k)
    refuse_nan(above)
    tied = bool((above == below).any())  # at the threshold: the lower index stays
    shape = (1, 1, *magnitude.shape[2:]) if positions else (-1, *[1] * (magnitude.dim() - 1))
    middle, above = ((below + above) / 2).view(shape), above.view(shape)
    if positions:  # expanded over the channels, so that contiguous rows are long
        middle, above = (each.expand(1, *magnitude.shape[1:]).contiguous() for each in (middle, above))
    soft = (magnitude - middle).div_(tau).sigmoid_()
    if not tied:
        scale.add_(soft.mul_(torch.ge(magnitude, above, out=torch.empty_like(soft))))
        return
    stay = keep_largest(rows, length - k, 1)
    stay = stay.t().reshape(magnitude.shape) if positions else stay.view(magnitude.shape)
    scale.add_(soft.mul_(stay.view(torch.uint8)))
