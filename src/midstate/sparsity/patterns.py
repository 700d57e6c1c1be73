"""Patterns: what is pruned together (the unit), and among which units the top-k is taken (the group).

Every N:M group is M neighbours along the input-channel axis (dim 1) of one output filter and one
kernel position; groups never straddle filters or positions. With shape legend O output filters,
C input channels, K kernel positions, M group size and G = C / M, a weight (O, C, *K) is seen as
(O, G, M, *K) without a copy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.sparsity import checks

GROUP_DIM = 2  # of the grouped view (O, G, M, *K)


def keep_largest(score: Tensor, num_keep: int, dim: int) -> Tensor:
    """Mark the `num_keep` largest entries of `score` along `dim`, exactly that many.

    Ties go to the lower index. A selection, not a sort: one threshold per slice, and the exact
    repair of ties only where a tie crosses the threshold.

    Returns:
        BoolTensor of score's shape.

    Raises:
        ValueError: score contains NaN, which has no place in an order.
    """
    size = score.shape[dim]
    if num_keep in (0, size):
        _refuse_nan(score)
        return torch.full_like(score, num_keep > 0, dtype=torch.bool)
    if num_keep == 1:
        threshold = score.amax(dim, keepdim=True)
    else:
        threshold = score.topk(num_keep, dim, sorted=False).values.amin(dim, keepdim=True)
    keep = score >= threshold
    if (keep.sum(dim) == num_keep).all():
        return keep
    # NaN compares as false and counts as the largest: its slice keeps too few, so it always ends here.
    _refuse_nan(score)
    above = score > threshold
    missing = num_keep - above.sum(dim, keepdim=True)
    tied = score == threshold
    return above | (tied & (tied.cumsum(dim) <= missing))


def grouped(weight: Tensor, m: int) -> Tensor:
    """View `weight` (O, C, *K) as (O, C/m, m, *K).

    Raises:
        ValueError: fewer than 2 dimensions, or C is not divisible by m.
    """
    if weight.dim() < 2:
        raise ValueError(f"weight of shape {tuple(weight.shape)}: N:M needs an input-channel axis (dim 1)")
    if weight.shape[1] % m:
        raise ValueError(
            f"weight of shape {tuple(weight.shape)}: {weight.shape[1]} input channels are not divisible by m={m}"
        )
    return weight.unflatten(1, (weight.shape[1] // m, m))


def nm_mask(weight: Tensor, n: int, m: int) -> Tensor:
    """Keep the n largest |w| of each group of m neighbours along dim 1.

    Args:
        weight: (O, C) or (O, C, *K), any float dtype, C divisible by m.
        n: kept per group, 1..m.
        m: group size, 1 or more.

    Returns:
        BoolTensor of weight's shape with exactly n True per group; ties keep the lower index.

    Raises:
        ValueError: n or m out of range, C not divisible by m, or NaN in weight.
    """
    pattern = NM(n, m)
    grouped(weight, m)  # refuses what is indivisible
    return pattern.mask(weight.detach().abs(), n)


def verify_nm(weight: Tensor, n: int, m: int) -> bool:
    """Tell whether every group of m along dim 1 has at most n non-zeros; False if C is indivisible."""
    if weight.dim() < 2 or weight.shape[1] % m:
        return False
    return NM(n, m).verify(weight, n)


def _refuse_nan(score: Tensor) -> None:
    if score.isnan().any():
        raise ValueError("weights contain NaN: they cannot be ranked")


@dataclass(frozen=True)
class NM:
    """N:M sparsity: unit a weight, group M neighbours along the input channels.

    A level is the number of weights kept per group, from n to m (`full`, dense).
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        checks.integer("m", self.m, 1)
        checks.integer("n", self.n, 1, self.m)

    @property
    def full(self) -> int:
        """The level of a dense layer."""
        return self.m

    @property
    def num_jumps(self) -> int:
        """Jumps between M:M and N:M when N goes down one by one (M-N-1 states lie strictly between)."""
        return self.m - self.n

    def target_level(self) -> int:
        """The level every layer ends at under uniform allocation."""
        return self.n

    def divides(self, shape: torch.Size) -> bool:
        """Tell whether a weight of this shape can be cut into whole groups."""
        return shape[1] % self.m == 0

    def mask(self, score: Tensor, level: int) -> Tensor:
        """Keep the `level` largest scores of each group; see `nm_mask`. A partial last group keeps its share."""
        parts = [self._keep_groups(part, kept, size) for part, kept, size in self._parts(score, level)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def verify(self, weight: Tensor, level: int) -> bool:
        """Tell whether finished weights have at most `level` non-zeros in every group."""
        return all(
            bool((grouped(part != 0, size).sum(GROUP_DIM) <= kept).all())
            for part, kept, size in self._parts(weight, level)
        )

    def density(self, shape: torch.Size, level: int) -> float:
        """Share of the weights of a layer of this shape that `level` keeps."""
        whole, rest = divmod(shape[1], self.m)
        return (whole * level + self._partial(level, rest)) / shape[1]

    def label(self, level: int) -> str:
        """The level as the field writes it, such as 2:4."""
        return f"{level}:{self.m}"

    def _partial(self, level: int, size: int) -> int:
        return -(-level * size // self.m)

    def _parts(self, tensor: Tensor, level: int) -> list[tuple[Tensor, int, int]]:
        """Cut along the channels into whole groups and, where m does not divide, one partial group."""
        rest = tensor.shape[1] % self.m
        if not rest:
            return [(tensor, level, self.m)]
        whole = tensor.shape[1] - rest
        parts = [(tensor[:, :whole], level, self.m)] if whole else []
        return [*parts, (tensor[:, whole:], self._partial(level, rest), rest)]

    def _keep_groups(self, score: Tensor, level: int, size: int) -> Tensor:
        return keep_largest(grouped(score, size), level, GROUP_DIM).flatten(1, 2)
