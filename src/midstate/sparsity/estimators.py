"""Estimators: what forward and backward see of a masked weight.

`apply` is the weight that the layer uses. `before_step` and `after_step` run around the optimizer's
step, on real gradients (after unscaling, before clipping), never inside an autograd Function: there a
GradScaler would divide the decay away and accumulation would add it once per micro-batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from midstate.sparsity import checks

# What optimizers call the running mean of gradients (SGD; Adam and its kin).
_MOMENTUM_KEYS = ("momentum_buffer", "exp_avg")


class _StraightThrough(torch.autograd.Function):
    """weight * mask forward, the gradient unchanged backward."""

    @staticmethod
    def forward(ctx, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


@dataclass(frozen=True)
class Hard:
    """Pruned weights are out of the game: no gradient, and they stay as they were when pruned.

    Momentum and weight decay would move them by 1e-2 in one step, so `after_step` puts them back and
    clears their momentum.
    """

    def apply(self, weight: Tensor, mask: Tensor) -> Tensor:
        """weight * mask; autograd masks the gradient by itself."""
        return weight * mask

    def before_step(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Remember the weights."""
        return weight.detach().clone()

    def after_step(self, weight: Tensor, mask: Tensor, before: Tensor, optimizer: Optimizer) -> None:
        """Put pruned weights back and clear their momentum."""
        weight.detach().copy_(torch.where(mask, weight.detach(), before))
        state = optimizer.state.get(weight, {})
        for key in _MOMENTUM_KEYS:
            if torch.is_tensor(state.get(key)):
                state[key].mul_(mask)


@dataclass(frozen=True)
class STE:
    """Straight-through (Bengio et al., arXiv 1308.3432): pruned weights get the full gradient."""

    def apply(self, weight: Tensor, mask: Tensor) -> Tensor:
        """weight * mask with the identity as its gradient."""
        return _StraightThrough.apply(weight, mask)

    def before_step(self, weight: Tensor, mask: Tensor) -> None:
        """Nothing."""

    def after_step(self, weight: Tensor, mask: Tensor, before: None, optimizer: Optimizer) -> None:
        """Nothing."""


@dataclass(frozen=True)
class SRSTE(STE):
    """STE with decay on the pruned weights: grad += decay * (1 - mask) * w (Zhou et al., arXiv 2102.04010)."""

    decay: float = 2e-4

    def __post_init__(self) -> None:
        checks.number("decay", self.decay, 0)

    def before_step(self, weight: Tensor, mask: Tensor) -> None:
        """Add the decay to the gradient of the pruned weights only."""
        if weight.grad is not None:
            weight.grad.add_(weight.detach() * ~mask, alpha=self.decay)
