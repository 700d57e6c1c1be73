"""Pruned weights are frozen, and their gradients are stored for growth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.sparsity.estimators.base import Memory, _StraightThrough
from midstate.sparsity.estimators.hard import Hard
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class DenseGradient(Hard):
    """As `Hard`; the last |gradient| of every weight, pruned or not, is stored, by which `DropGrow` grows weights."""

    def memory(self, weight: Tensor, pattern: Pattern, level: Level | None) -> Memory:
        """`gradient`: magnitudes, a tensor like the weight."""
        return {"gradient": torch.zeros_like(weight, requires_grad=False)}

    def apply(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """weight * mask with the identity as its gradient."""
        return _StraightThrough.apply(weight, mask)

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """Store the gradient and the weights, then mask the gradient."""
        if weight.grad is not None:
            magnitude = weight.grad.abs()
            # Gradients that are not finite belong to a step that fp16's GradScaler skips.
            memory["gradient"].copy_(torch.where(magnitude.isfinite(), magnitude, memory["gradient"]))
            weight.grad.mul_(mask)
        return super().before_step(weight, mask, memory)
