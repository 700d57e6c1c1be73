"""Criteria: which unit matters less. Each is a pure function from weights to scores of one shape."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class L1:
    """Magnitude |w|: the smallest is pruned first."""

    def score(self, weight: Tensor) -> Tensor:
        """Scores of weight's shape, 0 or more."""
        return weight.abs()
