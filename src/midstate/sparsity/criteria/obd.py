"""Second-order expansion of the loss with a diagonal curvature."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midstate.sparsity.criteria.base import Criterion, widened
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class OBD(Criterion):
    """w^2 times the curvature of the loss, after Optimal Brain Damage (LeCun et al., NeurIPS 1989).

    The curvature is the diagonal of the empirical Fisher (the mean over images of each image's squared gradient); the
    paper takes that of the Hessian. The factor 1/2 is left out, which does not change the order.
    """

    needs: ClassVar[tuple[str, ...]] = ("fisher",)

    def score(self, layer: LayerView, pattern: Pattern) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool(widened(layer.weight).square() * layer.fisher)
