"""Patterns: what is pruned together (the unit), and among which units the top-k is taken (the group).

Every pattern has the same methods. A level says how much of a layer stays, counted in units a group:
weights of the layer (`weight`), of each output row (`row`), of M neighbours (`nm`), or filters (`filter`).
Levels of a uniform allocation come from `sparsity`, the pruned share, and leave at least one unit.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import checks
from midstate.common.numbers import floor
from midstate.sparsity.nm import NM, Level
from midstate.sparsity.selection import keep_largest


def _share(name: str, value: object) -> None:
    if checks.number(name, value, 0, 1) == 1:
        raise ValueError(f"{name}={value!r}: must be below 1; a network without weights is no network")


@dataclass(frozen=True)
class Weight:
    """Unstructured sparsity: unit a weight, group the layer."""

    name: ClassVar[str] = "weight"
    sparsity: float
    num_jumps: ClassVar[int] = 16  # places where gaps are probed; the states themselves are countless

    def __post_init__(self) -> None:
        _share("sparsity", self.sparsity)

    @property
    def title(self) -> str:
        """The target in a few words."""
        unit = "filters" if self.name == "filter" else "weights"
        return f"{100 * (1 - self.sparsity):g} % of {unit}"

    def divides(self, shape: torch.Size) -> bool:
        """Every shape will do."""
        return True

    def full(self, shape: torch.Size) -> int:
        """All weights."""
        return shape.numel()

    def target(self, shape: torch.Size) -> int:
        """What stays under uniform allocation: floor((1 - sparsity) * full), never more than was asked."""
        return max(1, floor((1 - self.sparsity) * self.full(shape)))

    def on_the_way(self, shape: torch.Size, level: int, p: float) -> int:
        """The level at progress p towards `level`; a uniform one follows the share before rounding, as ASFP does."""
        if level == self.target(shape):
            return replace(self, sparsity=self.sparsity * p).target(shape)
        return self.full(shape) - floor((self.full(shape) - level) * p)

    def choices(self, shape: torch.Size) -> list[int]:
        """A hundred levels, a percent apart, nine below them, and the uniform one."""
        full = self.full(shape)
        shares = [*(tenth / 1000 for tenth in range(1, 10)), *(percent / 100 for percent in range(1, 101))]
        return sorted({max(1, round(full * share)) for share in shares} | {self.target(shape)})

    def kept(self, shape: torch.Size, level: int) -> int:
        """How many weights of a layer of this shape `level` keeps."""
        return level

    def pool(self, weights: Tensor) -> Tensor:
        """Sum what belongs to one unit: nothing to sum, a unit is a weight."""
        return weights

    def mask(self, score: Tensor, level: int) -> Tensor:
        """Keep the `level` largest scores of the layer."""
        return keep_largest(score.flatten(), level, 0).view(score.shape)

    def expand(self, mask: Tensor, shape: torch.Size) -> Tensor:
        """From a mask of units to a mask of weights: the same here."""
        return mask

    def units(self, mask: Tensor) -> Tensor:
        """From a mask of weights to a mask of units: the same here."""
        return mask

    def verify(self, weight: Tensor, level: int) -> bool:
        """Tell whether finished weights have at most `level` non-zeros."""
        return int(weight.count_nonzero()) <= level


@dataclass(frozen=True)
class Row(Weight):
    """Unstructured sparsity balanced over outputs: unit a weight, group all weights of one output row or filter."""

    name: ClassVar[str] = "row"

    def full(self, shape: torch.Size) -> int:
        """All weights of a row."""
        return shape[1:].numel()

    def kept(self, shape: torch.Size, level: int) -> int:
        """How many weights of a layer of this shape `level` keeps."""
        return level * shape[0]

    def mask(self, score: Tensor, level: int) -> Tensor:
        """Keep the `level` largest scores of each row."""
        return keep_largest(score.flatten(1), level, 1).view(score.shape)

    def verify(self, weight: Tensor, level: int) -> bool:
        """Tell whether every row of finished weights has at most `level` non-zeros."""
        return bool((weight.flatten(1).count_nonzero(1) <= level).all())


@dataclass(frozen=True)
class Filter(Weight):
    """Filter sparsity: unit an output filter (or an output of a linear layer), group the layer.

    The weights a level keeps are counted nominally, level * fan-in: input channels that an earlier layer
    no longer delivers are not subtracted here (the finished network's counts do that).
    """

    name: ClassVar[str] = "filter"

    def full(self, shape: torch.Size) -> int:
        """All filters."""
        return shape[0]

    def target(self, shape: torch.Size) -> int:
        """What stays under uniform allocation: floor(sparsity * filters) go, as SFP and FPGM round."""
        return max(1, shape[0] - floor(self.sparsity * shape[0]))

    def choices(self, shape: torch.Size) -> list[int]:
        """Every number of filters."""
        return list(range(1, shape[0] + 1))

    def kept(self, shape: torch.Size, level: int) -> int:
        """How many weights of a layer of this shape `level` keeps."""
        return level * shape[1:].numel()

    def pool(self, weights: Tensor) -> Tensor:
        """Sum over each filter: (O, C, *K) to (O,)."""
        return weights.flatten(1).sum(1)

    def mask(self, score: Tensor, level: int) -> Tensor:
        """Keep the `level` filters of largest score."""
        return keep_largest(score, level, 0)

    def expand(self, mask: Tensor, shape: torch.Size) -> Tensor:
        """From a mask of filters to a mask of weights (a view)."""
        return mask.view(-1, *[1] * (len(shape) - 1)).expand(shape)

    def units(self, mask: Tensor) -> Tensor:
        """From a mask of weights to a mask of filters."""
        return mask.flatten(1)[:, 0]

    def verify(self, weight: Tensor, level: int) -> bool:
        """Tell whether at most `level` filters of finished weights have a non-zero."""
        return int(weight.flatten(1).any(1).sum()) <= level


Pattern = NM | Weight | Row | Filter


def verify(weight: Tensor, pattern: Pattern, level: Level) -> bool:
    """Tell whether the finished weights of one layer are what was promised.

    Args:
        weight: (O, C) or (O, C, *K), masks folded in.
        pattern: the pattern.
        level: the layer's target level; 0 only where a layer was to be emptied.

    Returns:
        False if any group has more non-zeros than `level`, and also if the layer has collapsed: not one
        weight is left although some were to stay.
    """
    asked_empty = not (level.any() if isinstance(level, Tensor) else level)
    return pattern.verify(weight, level) and (asked_empty or bool(weight.any()))
