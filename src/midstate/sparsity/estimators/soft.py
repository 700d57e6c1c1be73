"""Masks in evaluation only; weights are zeroed at each refresh."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import checks
from midstate.sparsity.estimators.base import Estimator, Memory


@dataclass(frozen=True)
class Soft(Estimator):
    """Soft filter pruning (He et al., arXiv 1808.06866): a refresh zeroes weights, then they train on and may regrow.

    Training sees the dense weights, evaluation the masked ones. Momentum, weight decay and BatchNorm are
    left alone.

    Args:
        mask_gradient: zero the gradient of pruned weights, as FPGM's released code does (its paper does not
            say so): only earlier momentum still moves them, so they hardly ever come back.
    """

    mask_gradient: bool = False
    trains_dense: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.boolean("mask_gradient", self.mask_gradient)

    def apply(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """weight * mask, in evaluation."""
        return weight * mask

    def refreshed(self, weight: Tensor, mask: Tensor, memory: Memory, progress: float) -> None:
        """Zero the pruned weights, once."""
        weight.detach().mul_(mask.view(torch.uint8))  # several times as fast as with bools

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> None:
        """Mask the gradient, if asked."""
        if self.mask_gradient and weight.grad is not None:
            weight.grad.mul_(mask.view(torch.uint8))
