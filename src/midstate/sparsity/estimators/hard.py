"""Pruned weights are at rest."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from midstate.sparsity.estimators.base import _MOMENTUM_KEYS, Estimator, Memory


@dataclass(frozen=True)
class Hard(Estimator):
    """Pruned weights are out of the game: no gradient, and they stay as they were when pruned.

    Momentum and weight decay would move them by 1e-2 in one step, so `after_step` puts them back and
    clears their momentum.
    """

    freezes_pruned: ClassVar[bool] = True

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
