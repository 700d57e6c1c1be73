"""Magnitude times the norm of the input."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midstate.sparsity.criteria.base import Criterion, Seen, of_inputs
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class Wanda(Criterion):
    """|w| times the norm of the input channel it reads (Sun et al., arXiv 2306.11695)."""

    observes: ClassVar[str | None] = "input_norm"

    def score(self, weight: Tensor, pattern: Pattern, seen: Seen) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool(weight.abs() * of_inputs(weight, seen.input_norm))
