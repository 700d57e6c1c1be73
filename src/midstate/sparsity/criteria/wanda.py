"""Magnitude times the norm of the input."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midstate.sparsity.criteria.base import Criterion, of_inputs
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class Wanda(Criterion):
    """|w| times the norm of the input channel it reads (Sun et al., arXiv 2306.11695)."""

    needs: ClassVar[tuple[str, ...]] = ("input_norm",)

    def score(self, layer: LayerView, pattern: Pattern) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool(layer.weight.abs() * of_inputs(layer.weight, layer.input_norm))
