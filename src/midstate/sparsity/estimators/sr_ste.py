"""Straight-through with a decay on pruned weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.common import checks
from midstate.sparsity.estimators.base import Memory
from midstate.sparsity.estimators.ste import STE


@dataclass(frozen=True)
class SRSTE(STE):
    """STE with decay on the pruned weights: grad += decay * (1 - mask) * w (Zhou et al., arXiv 2102.04010)."""

    decay: float = 2e-4

    def __post_init__(self) -> None:
        checks.number("decay", self.decay, 0)

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> None:
        """Add the decay to the gradient of the pruned weights only."""
        if weight.grad is not None:
            pruned = (~mask).view(torch.uint8)  # bytes convert to floats several times as fast as bools
            weight.grad.add_(weight.detach() * pruned, alpha=self.decay)
