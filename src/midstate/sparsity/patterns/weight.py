"""Single weights; those of smallest score in a layer are pruned."""

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
    unit: ClassVar[str] = "weight"  # what is pruned together: weight or filter
    group: ClassVar[str] = "layer"  # within which units are ranked: layer, row, neighbours or coupled
    budgets: ClassVar[tuple[str, ...]] = ("params", "macs")  # names of budgets that can count the cost of a level
    sparsity: float  # share of the units that is pruned, from 0 to below 1
    num_jumps: ClassVar[int] = 16  # places where gaps are probed; there are many more states

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
        """All settings on which the meaning of a level depends."""
        return {"pattern": self.name}

    def divides(self, shape: torch.Size) -> bool:
        """Every shape will do."""
        return True

    def full(self, shape: torch.Size) -> int:
        """All weights."""
        return shape.numel()

    def target(self, shape: torch.Size) -> int:
        """Level of the uniform allocation: floor((1 - sparsity) * full), at least 1."""
        return max(1, floor((1 - self.sparsity) * self.full(shape)))

    def on_the_way(self, shape: torch.Size, level: int, p: float) -> int:
        """The level at progress p towards `level`; the uniform one is approached by sparsity * p, as in ASFP."""
        if level == self.target(shape):
            return replace(self, sparsity=self.sparsity * p).target(shape)
        return self.full(shape) - floor((self.full(shape) - level) * p)

    def choices(self, shape: torch.Size) -> list[int]:
        """Levels at 0.1, 0.2, ... 0.9 % and at 1, 2, ... 100 % of the units, and the uniform level."""
        full = self.full(shape)
        shares = [*(tenth / 1000 for tenth in range(1, 10)), *(percent / 100 for percent in range(1, 101))]
        return sorted({max(1, round(full * share)) for share in shares} | {self.target(shape)})

    def kept(self, shape: torch.Size, level: int) -> int:
        """How many weights of a layer of this shape `level` keeps."""
        return level

    def pool(self, weights: Tensor) -> Tensor:
        """Sum over each unit: the weights unchanged, since a unit is one weight."""
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
