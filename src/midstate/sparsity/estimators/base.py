"""Estimators: what the forward and the backward pass use of a masked weight.

`apply` returns the weight that the layer uses. `before_step` and `after_step` run around the optimizer's
step, on real gradients (after unscaling, before clipping), never inside an autograd Function: there a
GradScaler would divide the decay away and accumulation would add it once per micro-batch. `refreshed`
is called with every new mask. Tensors that an estimator keeps for a layer beside its mask are its `memory`.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.schedules import Window

# Keys of the running mean of gradients in optimizers (SGD; Adam and its kin).
_MOMENTUM_KEYS = ("momentum_buffer", "exp_avg")
Memory = Mapping[str, Tensor]  # by name


class _StraightThrough(torch.autograd.Function):
    """weight * mask forward, the gradient unchanged backward."""

    @staticmethod
    def forward(ctx, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Estimator:
    """Base of estimators; members add `apply(weight, mask, memory)` and override what they do differently.

    Protocol: `check_window` and `memory` are called when the pruner is attached, before the optimizer exists, so that
    parameters in `memory` are trained. Then, in each step: `refreshed` if masks were refreshed; `apply` in every
    forward pass; `before_step` on real gradients (unscaled, not yet clipped); `after_step` after the optimizer.
    """

    patterns: ClassVar[tuple[str, ...]] = ()  # names of the patterns it works with; empty: all
    trains_dense: ClassVar[bool] = False  # whether forward passes in training see the weights without masks
    scales: ClassVar[bool] = False  # whether kept weights are scaled; members add `scale`
    whole_channels: ClassVar[bool] = False  # whether a filter's bias, gamma and beta are masked with it
    freezes_pruned: ClassVar[bool] = False  # whether pruned weights do not change and have no momentum

    def check_window(self, window: Window) -> None:
        """Raise ValueError if the window leaves the estimator no step to act in."""

    def memory(self, weight: Tensor, pattern: Pattern, level: Level | None) -> Memory:
        """Tensors to keep for a layer beside its mask: all are saved with the model, and parameters are trained.

        Args:
            weight: the layer's, (O, C) or (O, C, *K).
            pattern: the method's.
            level: the layer's target level; None if it is decided later.
        """
        return {"scale": torch.ones_like(weight, requires_grad=False)} if self.scales else {}

    def refreshed(self, weight: Tensor, mask: Tensor, memory: Memory, progress: float) -> None:
        """Act on the weights when their mask is refreshed; at `progress` 1 it is the target's."""

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor | None:
        """Change the gradient in place; the returned tensor is passed to `after_step` as `before`."""

    def after_step(self, weight: Tensor, mask: Tensor, before: Tensor | None, optimizer: Optimizer) -> None:
        """Undo what the optimizer did against the method's rule."""
