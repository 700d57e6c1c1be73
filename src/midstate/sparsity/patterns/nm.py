"""N:M sparsity: of every M neighbours, N stay.

Every group is M neighbours along the input-channel axis (dim 1) of one output filter and one
kernel position; groups never straddle filters or positions. With shape legend O output filters,
C input channels, K kernel positions, M group size and G = C / M, a weight (O, C, *K) is seen as
(O, G, M, *K) without a copy.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from midstate.common import limits
from midstate.sparsity.kernels.selection import keep_largest

GROUP_DIM = 2  # of the grouped view (O, G, M, *K)
# A layer's level: the number of units kept in each group; under N:M also a tensor with one number a filter. For a
# quantizer: bits, or a pair (bits of weights, bits of activations).
Level = int | Tensor | tuple[int, ...]


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


def filled_groups(weight: Tensor, m: int) -> Tensor:
    """View `weight` (O, C, *K) as (O, groups, m, *K); a partial last group is padded with zeros, in a copy."""
    if missing := -weight.shape[1] % m:
        weight = F.pad(weight, (0, 0) * (weight.dim() - 2) + (0, missing))
    return grouped(weight, m)


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
    grouped(weight, m)  # raises if C is not divisible by m
    return pattern.mask(rankable(weight).abs(), n)


def rankable(weight: Tensor) -> Tensor:
    """Return the weight, detached; float8, which torch cannot compare, is converted to float32 without rounding."""
    return weight.detach() if weight.dtype.itemsize > 1 else weight.detach().float()


def verify_nm(weight: Tensor, n: int, m: int) -> bool:
    """Tell whether every group of m along dim 1 has at most n non-zeros; False if C is indivisible."""
    if weight.dim() < 2 or weight.shape[1] % m:
        return False
    return NM(n, m).verify(weight, n)


@dataclass(frozen=True)
class NM:
    """N:M sparsity: unit a weight, group M neighbours along the input channels.

    A level is the number of weights kept per group, from 1 to m (dense): one number for the layer, or a
    tensor with one for each filter.

    Args:
        n: kept per group.
        m: size of a group.
        permute: order the network's channels once, before the first mask, so that more magnitude is kept.
        permute_seconds: time limit of the search for an order; then the best so far is taken.
    """

    name: ClassVar[str] = "nm"
    unit: ClassVar[str] = "weight"
    group: ClassVar[str] = "neighbours"
    nominal_density: ClassVar[float | None] = None  # None: N / M is kept exactly, except in partial groups
    budgets: ClassVar[tuple[str, ...]] = ("params", "macs")  # names of budgets that can count the cost of a level
    n: int
    m: int
    permute: bool = False
    permute_seconds: float = 300

    def __post_init__(self) -> None:
        limits.nm(vars(self))

    @property
    def identity(self) -> dict[str, object]:
        """All settings on which the meaning of a level depends."""
        return {"pattern": self.name, "m": self.m}

    @property
    def num_jumps(self) -> int:
        """Jumps between M:M and N:M when N goes down one by one (M-N-1 states lie strictly between)."""
        return self.m - self.n

    def divides(self, shape: torch.Size) -> bool:
        """Tell whether a weight of this shape can be cut into whole groups."""
        return shape[1] % self.m == 0

    def full(self, shape: torch.Size) -> int:
        """The level of a dense layer."""
        return self.m

    def target(self, shape: torch.Size) -> int:
        """The level every layer ends at under uniform allocation."""
        return self.n

    def choices(self, shape: torch.Size) -> list[int]:
        """All levels that keep a weight: 1, 2, ... m."""
        return list(range(1, self.m + 1))

    def kept(self, shape: torch.Size, level: Level) -> int:
        """How many weights of a layer of this shape `level` keeps."""
        if isinstance(level, Tensor):
            return sum(self.kept(torch.Size((1, *shape[1:])), each) for each in level.tolist())
        whole, rest = divmod(shape[1], self.m)
        return (whole * level + self._partial(level, rest)) * shape[0] * shape[2:].numel()

    def pool(self, weights: Tensor) -> Tensor:
        """Sum over each unit: the weights unchanged, since a unit is one weight."""
        return weights

    def mask(self, score: Tensor, level: Level, dense: Tensor | None = None) -> Tensor:
        """Keep the `level` largest scores of each group; see `nm_mask`. A partial group of r keeps ceil(level * r / m).

        Args:
            score: (O, C) or (O, C, *K); negative for units that may not come back.
            level: units kept in each group, or one number a filter.
            dense: marks groups that stay dense, (O, groups, *K); None: none.
        """
        if isinstance(level, Tensor):
            masks = torch.empty_like(score, dtype=torch.bool)
            for each in level.unique().tolist():
                rows = level == each
                masks[rows] = self.mask(score[rows], each, None if dense is None else dense[rows])
            return masks
        parts, done = [], 0
        for part, kept, size in self._parts(score, level):
            groups = grouped(part, size)
            whole = None if dense is None else dense[:, done : done + groups.shape[1]].unsqueeze(GROUP_DIM)
            parts.append(keep_largest(groups, kept, GROUP_DIM, whole).flatten(1, 2))
            done += groups.shape[1]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def expand(self, mask: Tensor, shape: torch.Size) -> Tensor:
        """From a mask of units to a mask of weights: the same here."""
        return mask

    def units(self, mask: Tensor) -> Tensor:
        """From a mask of weights to a mask of units: the same here."""
        return mask

    def verify(self, weight: Tensor, level: Level) -> bool:
        """Tell whether finished weights have at most `level` non-zeros in every group."""
        if isinstance(level, Tensor):
            return all(self.verify(weight[level == each], each) for each in level.unique().tolist())
        return all(
            bool((grouped(part != 0, size).sum(GROUP_DIM) <= kept).all())
            for part, kept, size in self._parts(weight, level)
        )

    @property
    def title(self) -> str:
        """The target in a few words, such as 2:4."""
        return self.label(self.n)

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
