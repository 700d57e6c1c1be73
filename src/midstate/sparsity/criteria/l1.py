"""Magnitude."""

from dataclasses import dataclass

from torch import Tensor

from midstate.sparsity.criteria.base import Criterion
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class L1(Criterion):
    """Magnitude: |w|, summed over a filter (Li et al., arXiv 1608.08710)."""

    def score(self, layer: LayerView, pattern: Pattern) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool(layer.weight.abs())
