"""Straight-through: pruned weights train on."""

from dataclasses import dataclass

from torch import Tensor

from midstate.sparsity.estimators.base import Estimator, Memory, _StraightThrough


@dataclass(frozen=True)
class STE(Estimator):
    """Straight-through (Bengio et al., arXiv 1308.3432): pruned weights get the full gradient."""

    def apply(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """weight * mask with the identity as its gradient."""
        return _StraightThrough.apply(weight, mask)
