"""Estimators: forward value and gradient of a quantised tensor, and the learned parameters of its values.

One instance serves all weights, or all inputs; the tensors that it keeps for one of them are a `memory`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Memory = Mapping[str, Tensor]  # by name


@dataclass(frozen=True)
class Kind:
    """Kind of a quantised tensor: weights of a layer, or its inputs.

    Args:
        bits: in force; if learned, the most.
        signed: whether it may have negative elements.
        weights: True for weights, False for inputs.
        learned: whether training finds the bits; else `bits` are given.
    """

    bits: int
    signed: bool = True
    weights: bool = True
    learned: bool = False

    @property
    def low(self) -> int:
        """Least multiple of the step: -2^(b-1), or 0."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest multiple of the step: 2^(b-1) - 1, or 2^b - 1."""
        return 2 ** (self.bits - self.signed) - 1


class StraightThrough(torch.autograd.Function):
    """Straight-through estimator: the quantised tensor forward, the unchanged gradient backward."""

    @staticmethod
    def forward(ctx, x: Tensor, quantised: Tensor) -> Tensor:
        """The quantised tensor."""
        return quantised.view_as(quantised)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradients, as the class says."""
        return gradient, None


def at_least(x: Tensor, least: float) -> Tensor:
    """A parameter, or `least` where it is below; gradients pass there, too, so that training can raise it."""
    return torch.where(x < least, least + (x - x.detach()), x)


class Estimator:
    """Base of estimators; members add `memory`, `start`, `apply`, and for weights `values`, for inputs `fixed`.

    Protocol: `memory` is called when the quantizer is attached, before the optimizer exists, so that parameters in it
    are trained. `start` is called when a number of bits comes into force, `refit` at every refresh after that;
    `apply` in every forward pass. `before_step` runs before the optimizer's step, on unscaled gradients.
    """

    bits: tuple[int, int] = (2, 8)  # least and most
    grids: ClassVar[tuple[str, ...]] = ()  # names of the grids that it takes for weights; empty: it is not for weights
    any_grid: ClassVar[bool] = False  # whether it also takes other grids that can be fitted to weights
    inputs: ClassVar[bool] = False  # whether it is for inputs
    learns_bits: ClassVar[bool] = False  # whether training itself finds the bits
    scaled_gradients: ClassVar[bool] = True  # whether it works with the loss scaling of fp16

    def refit(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Fit the values to the present weights at a refresh."""

    def before_step(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Change the gradients of learned parameters of weights, after unscaling."""
