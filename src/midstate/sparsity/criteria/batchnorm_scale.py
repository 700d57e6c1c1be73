"""The scale of the BatchNorm that reads a filter."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midstate.sparsity.criteria.base import Criterion
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class BatchNormScale(Criterion):
    """|gamma| of the BatchNorm that reads a filter (Network Slimming, Liu et al., arXiv 1708.06519)."""

    needs: ClassVar[tuple[str, ...]] = ("batchnorm_scale",)

    def score(self, layer: LayerView, pattern: Pattern) -> Tensor:
        """Scores (O,)."""
        return layer.batchnorm_scale.detach().abs()
