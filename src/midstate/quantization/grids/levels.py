"""Values in any places: the nearest of them, and the grid whose values are learned."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import checks


@dataclass(frozen=True)
class Levels:
    """Any values, in order: training finds them, see the estimator `ddq`.

    Args:
        max_bits: 2^max_bits levels a layer.
    """

    max_bits: int = 8
    name: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        checks.integer("max_bits", self.max_bits, 2, 8)


def midpoints(levels: Tensor) -> Tensor:
    """What lies halfway between neighbours of ascending levels, (n - 1,)."""
    return (levels[1:] + levels[:-1]) / 2


def nearest_index(x: Tensor, levels: Tensor) -> Tensor:
    """Which of ascending levels is nearest to each number, int32, like x; halfway between two, the lower one."""
    return torch.bucketize(x.contiguous(), midpoints(levels), out_int32=True)


def taken(levels: Tensor, index: Tensor) -> Tensor:
    """The levels of an index, like the index; ten times sooner than levels[index]."""
    return levels.index_select(0, index.flatten()).view_as(index)


def nearest(x: Tensor, levels: Tensor) -> Tensor:
    """The nearest of ascending levels, a new tensor like x; halfway between two, the lower one."""
    return taken(levels, nearest_index(x, levels))
