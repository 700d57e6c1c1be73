"""Euclidean norm."""

from dataclasses import dataclass

from torch import Tensor

from midstate.sparsity.criteria.base import Criterion, widened
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class L2(Criterion):
    """Euclidean norm of a unit; for single weights the same order as L1."""

    def score(self, layer: LayerView, pattern: Pattern) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool(widened(layer.weight).square()).sqrt()
