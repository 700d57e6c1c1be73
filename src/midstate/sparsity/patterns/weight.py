"""Single weights, the smallest of a layer go."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import limits
from midstate.common.numbers import floor
from midstate.sparsity.kernels.selection import keep_largest


@dataclass(frozen=True)
class Weight:
    """Unstructured sparsity: unit a weight, group the layer."""

    name: ClassVar[str] = "weight"
    unit: ClassVar[str] = "weight"  # what goes together: weight or filter
    group: ClassVar[str] = "layer"  # among which it is ranked: layer, row or neighbours
    budgets: ClassVar[tuple[str, ...]] = ("params", "macs")  # in which what a level costs can be counted
    sparsity: float
    num_jumps: ClassVar[int] = 16  # places where gaps are probed; the states themselves are countless

    def __post_init__(self) -> None:
        limits.share(vars(self))

    @property
    def title(self) -> str:
        """The target in a few words."""
        return f"{100 * (1 - self.sparsity):g} % of {self.unit}s"

    @property
    def nominal_density(self) -> float | None:
        """Density before rounding to whole units."""
        return 1 - self.sparsity

    @property
    def identity(self) -> dict[str, object]:
        """All that levels of a layer depend on."""
        return {"pattern": self.name}

    def divides(self, shape: torch.Size) -> bool:
        """Every shape will do."""
        return True

    def full(self, shape: torch.Size) -> int:
        """All weights."""
        return shape.numel()

    def target(self, shape: torch.Size) -> int:
        """Level of the uniform allocation: floor((1 - sparsity) * full), never more than was asked."""
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
