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

    def check(self, pattern: Pattern, from_scores: bool) -> None:
        """Filters only: a gamma belongs to one."""
        if pattern.name != "filter":
            raise ValueError(
                f"criterion=batchnorm_scale has one score a filter, and pattern={pattern.name} prunes single weights: "
                "use pruner/pattern=filter, or pruner/criterion=l1"
            )

    def score(self, layer: LayerView, pattern: Pattern) -> Tensor:
        """Scores (O,)."""
        return layer.batchnorm_scale.detach().abs()
