"""Straight-through estimator: the gradient ignores the rounding, and the grid is fitted to the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.quantization.estimators.base import Estimator, Kind, Memory, StraightThrough
from midstate.quantization.grids.kmeans import KMeans
from midstate.quantization.grids.uniform import Uniform


@dataclass(frozen=True)
class STE(Estimator):
    """Forward the nearest value of the grid, backward the unchanged gradient (Bengio et al., arXiv 1308.3432).

    The grid is fitted to the weights anew at every refresh; masked weights do not count.
    """

    grid: Uniform | KMeans
    grids: ClassVar[tuple[str, ...]] = ("uniform", "kmeans")
    any_grid: ClassVar[bool] = True

    @property
    def bits(self) -> tuple[int, int]:
        """Fewest and most bits, those of the grid."""
        return getattr(self.grid, "bits", (2, 8))  # default for a grid without bits, which `Quantization` refuses

    def memory(self, x: Tensor, kind: Kind) -> Mapping[str, Tensor]:
        """The tensors that the grid keeps."""
        return self.grid.memory(x, kind.bits)

    @torch.no_grad()
    def start(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Fit the grid."""
        self.grid.fit(x, kind.bits, memory)

    def refit(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Fit the grid again."""
        self.start(x, kind, memory)

    def apply(self, x: Tensor, kind: Kind, memory: Memory) -> Tensor:
        """The nearest value of the grid."""
        with torch.no_grad():
            quantised = self.grid.quantise(x.detach(), kind.bits, memory)
        return StraightThrough.apply(x, quantised)

    def values(self, kind: Kind, memory: Memory) -> Tensor:
        """All values a tensor may have, (rows, at most 2^b)."""
        return self.grid.values(kind.bits, memory)
