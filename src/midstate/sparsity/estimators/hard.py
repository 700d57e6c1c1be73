"""Pruned weights are frozen."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from midstate.sparsity.estimators.base import _MOMENTUM_KEYS, Estimator, Memory

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size of a float type in bytes


@dataclass(frozen=True)
class Hard(Estimator):
    """Pruned weights get no gradient, and keep the value that they had when they were pruned.

    Momentum and weight decay would move them by 1e-2 in one step, so `after_step` puts them back and
    clears their momentum.
    """

    freezes_pruned: ClassVar[bool] = True

    def apply(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """weight * mask; autograd masks the gradient by itself."""
        return weight * mask

    def before_step(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """Return a copy of the weights."""
        return weight.detach().clone()

    def after_step(self, weight: Tensor, mask: Tensor, before: Tensor, optimizer: Optimizer) -> None:
        """Put pruned weights back and clear their momentum."""
        kept, pruned = mask.view(torch.uint8), (~mask).view(torch.uint8)
        # As `where(mask, weight, before)`, in a third of the time. Integers keep the sign of a zero.
        as_integers = INTEGERS[weight.dtype.itemsize]
        weight.detach().view(as_integers).mul_(kept).add_(before.view(as_integers).mul_(pruned))
        state = optimizer.state.get(weight, {})
        for key in _MOMENTUM_KEYS:
            if torch.is_tensor(state.get(key)):
                state[key].mul_(kept)
