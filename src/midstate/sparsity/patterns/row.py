"""Single weights; those of smallest score in each output row are pruned."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.sparsity.kernels.selection import keep_largest
from midstate.sparsity.patterns.weight import Weight


@dataclass(frozen=True)
class Row(Weight):
    """Unstructured sparsity balanced over outputs: unit a weight, group all weights of one output row or filter."""

    name: ClassVar[str] = "row"
    group: ClassVar[str] = "row"

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
