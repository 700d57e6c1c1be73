"""Output filters; those of smallest score in a layer are pruned."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common.numbers import floor
from midstate.sparsity.kernels.selection import keep_largest
from midstate.sparsity.patterns.weight import Weight


@dataclass(frozen=True)
class Filter(Weight):
    """Filter sparsity: unit an output filter (or an output of a linear layer), group the layer.

    The weights a level keeps are counted nominally, level * fan-in: input channels that an earlier layer
    no longer delivers are not subtracted here (the finished network's counts do that).
    """

    name: ClassVar[str] = "filter"
    unit: ClassVar[str] = "filter"

    def full(self, shape: torch.Size) -> int:
        """All filters."""
        return shape[0]

    def target(self, shape: torch.Size) -> int:
        """Level of the uniform allocation: floor(sparsity * filters) go, as SFP and FPGM round; at least 1 stays."""
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
