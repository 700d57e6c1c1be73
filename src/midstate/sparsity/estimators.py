"""Estimators: what forward and backward see of a masked weight.

`apply` is the weight that the layer uses. `before_step` and `after_step` run around the optimizer's
step, on real gradients (after unscaling, before clipping), never inside an autograd Function: there a
GradScaler would divide the decay away and accumulation would add it once per micro-batch. `refreshed`
is called with every new mask. What an estimator keeps of a layer beside its mask is its `memory`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from midstate.common import checks
from midstate.sparsity.nm import Level
from midstate.sparsity.patterns import Pattern
from midstate.sparsity.schedules import Window

# What optimizers call the running mean of gradients (SGD; Adam and its kin).
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
    """What every estimator has; members override what they do differently, and add `apply`."""

    trains_dense: ClassVar[bool] = False  # whether forward passes in training see the weights without masks
    scales: ClassVar[bool] = False  # whether kept weights are scaled; members add `scale`
    whole_channels: ClassVar[bool] = False  # whether a filter's bias, gamma and beta are masked with it
    by_filter: ClassVar[bool] = True  # whether filters of one layer may have levels of their own
    continuous: ClassVar[bool] = False  # whether kept weights come to 0 before they are pruned
    learns_combinations: ClassVar[bool] = False  # whether it is about the states of path=combinations, and no others
    rests: ClassVar[bool] = False  # whether pruned weights stand still, without momentum
    sees_pruned: ClassVar[bool] = False  # whether `memory` holds the last |gradient| of all weights, as `gradient`

    def check(self, pattern: Pattern) -> None:
        """Raise ValueError if the estimator makes no sense for this pattern."""

    def check_window(self, window: Window) -> None:
        """Raise ValueError if the path leaves the estimator no time for what it does."""

    def memory(self, weight: Tensor, pattern: Pattern, level: Level | None) -> Memory:
        """Tensors to keep of a layer beside its mask: parameters are trained, others are saved with the model.

        Args:
            weight: the layer's, (O, C) or (O, C, *K).
            pattern: the method's.
            level: the layer's target level; None where it is decided later.
        """
        return {"scale": torch.ones_like(weight, requires_grad=False)} if self.scales else {}

    def refreshed(self, weight: Tensor, mask: Tensor, memory: Memory, progress: float) -> None:
        """Act on the weights when their mask is refreshed; at `progress` 1 it is the target's."""

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor | None:
        """Change the gradient; what is returned comes back in `after_step`."""

    def after_step(self, weight: Tensor, mask: Tensor, before: Tensor | None, optimizer: Optimizer) -> None:
        """Undo what the optimizer did against the method's rule."""


@dataclass(frozen=True)
class Hard(Estimator):
    """Pruned weights are out of the game: no gradient, and they stay as they were when pruned.

    Momentum and weight decay would move them by 1e-2 in one step, so `after_step` puts them back and
    clears their momentum.
    """

    rests: ClassVar[bool] = True

    def apply(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """weight * mask; autograd masks the gradient by itself."""
        return weight * mask

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """Remember the weights."""
        return weight.detach().clone()

    def after_step(self, weight: Tensor, mask: Tensor, before: Tensor, optimizer: Optimizer) -> None:
        """Put pruned weights back and clear their momentum."""
        weight.detach().copy_(torch.where(mask, weight.detach(), before))
        state = optimizer.state.get(weight, {})
        for key in _MOMENTUM_KEYS:
            if torch.is_tensor(state.get(key)):
                state[key].mul_(mask.view(torch.uint8))  # several times sooner than by bools


@dataclass(frozen=True)
class HardChannels(Hard):
    """As `Hard`, and with a pruned filter its bias, gamma and beta go the same way: its channel is 0, no constant."""

    whole_channels: ClassVar[bool] = True

    def check(self, pattern: Pattern) -> None:
        """Filters only."""
        if pattern.name != "filter":
            raise ValueError(
                f"estimator=hard_channels takes whole channels away, and pattern={pattern.name} prunes single weights: "
                "use pruner/estimator=hard"
            )


@dataclass(frozen=True)
class DenseGradient(Hard):
    """As `Hard`, and the last gradient of every weight, pruned or not, is remembered: by it weights are grown."""

    sees_pruned: ClassVar[bool] = True

    def memory(self, weight: Tensor, pattern: Pattern, level: Level | None) -> Memory:
        """`gradient`: magnitudes, a tensor like the weight."""
        return {"gradient": torch.zeros_like(weight, requires_grad=False)}

    def apply(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """weight * mask with the identity as its gradient."""
        return _StraightThrough.apply(weight, mask)

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """Remember the gradient and the weights, then mask the gradient."""
        if weight.grad is not None:
            magnitude = weight.grad.abs()
            # What is not finite comes from a step that fp16's scaler leaves out.
            memory["gradient"].copy_(torch.where(magnitude.isfinite(), magnitude, memory["gradient"]))
            weight.grad.mul_(mask)
        return super().before_step(weight, mask, memory)


@dataclass(frozen=True)
class STE(Estimator):
    """Straight-through (Bengio et al., arXiv 1308.3432): pruned weights get the full gradient."""

    def apply(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """weight * mask with the identity as its gradient."""
        return _StraightThrough.apply(weight, mask)


@dataclass(frozen=True)
class SRSTE(STE):
    """STE with decay on the pruned weights: grad += decay * (1 - mask) * w (Zhou et al., arXiv 2102.04010)."""

    decay: float = 2e-4

    def __post_init__(self) -> None:
        checks.number("decay", self.decay, 0)

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> None:
        """Add the decay to the gradient of the pruned weights only."""
        if weight.grad is not None:
            pruned = (~mask).view(torch.uint8)  # bytes become floats several times sooner
            weight.grad.add_(weight.detach() * pruned, alpha=self.decay)


@dataclass(frozen=True)
class Soft(Estimator):
    """Soft filter pruning (He et al., arXiv 1808.06866): a refresh zeroes weights, then they train on and may regrow.

    Training sees the dense weights, evaluation the masked ones. Momentum, weight decay and BatchNorm are
    left alone.

    Args:
        mask_gradient: zero the gradient of pruned weights, as FPGM's released code does and its paper does
            not say: they stay zero but for what momentum has gathered before, so they hardly ever come back.
    """

    mask_gradient: bool = False
    trains_dense: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.boolean("mask_gradient", self.mask_gradient)

    def apply(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """weight * mask, in evaluation."""
        return weight * mask

    def refreshed(self, weight: Tensor, mask: Tensor, memory: Memory, progress: float) -> None:
        """Zero what is pruned, once."""
        weight.detach().mul_(mask)

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> None:
        """Mask the gradient, if asked."""
        if self.mask_gradient and weight.grad is not None:
            weight.grad.mul_(mask)
