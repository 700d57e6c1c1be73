"""Euclidean norm."""

from dataclasses import dataclass

from torch import Tensor

from midstate.sparsity.criteria.base import Criterion, Seen
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class L2(Criterion):
    """Euclidean norm of a unit; for single weights the same order as L1."""

    def score(self, weight: Tensor, pattern: Pattern, seen: Seen) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool(weight.square()).sqrt()
