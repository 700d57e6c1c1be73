"""First-order Taylor expansion of the loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midstate.sparsity.criteria.base import Criterion, widened
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class Taylor(Criterion):
    """(w * gradient)^2, the squared first-order change of the loss without w (Molchanov et al., arXiv 1906.10771).

    The article has two forms for the weights of a filter: this is the sum of the squares, as in its released code, not
    the square of the sum. The gradient is that of the mean loss on the sample; the code adds up the squares of many
    batches instead. For single weights the order is that of |w * gradient|.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradient",)

    def score(self, layer: LayerView, pattern: Pattern) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool((widened(layer.weight) * layer.gradient).square())
