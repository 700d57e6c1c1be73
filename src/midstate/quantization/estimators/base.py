"""Estimators: what forward and backward see of a quantised tensor, and what is learned of its values.

One instance serves all tensors of its kind, weights or inputs; what it keeps of one tensor is its `memory`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Memory = Mapping[str, Tensor]  # by name


@dataclass(frozen=True)
class Kind:
    """What is quantised: weights of a layer, or its inputs.

    Args:
        bits: in force.
        signed: whether there are negative numbers.
        weights: whether they are weights; else inputs.
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
    """The quantised tensor forward, the gradient unchanged backward."""

    @staticmethod
    def forward(ctx, x: Tensor, quantised: Tensor) -> Tensor:
        """The quantised tensor."""
        return quantised.view_as(quantised)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradients, as the class says."""
        return gradient, None


class Estimator:
    """Base of estimators; members add `memory`, `start`, `apply`; those of weights `values`, of inputs `fixed`.

    Protocol: `memory` is called when the quantizer is attached, before the optimizer exists, so that parameters in it
    are trained. `start` is called when a number of bits comes into force, `refit` at every refresh after that;
    `apply` in every forward pass. `before_step` runs before the optimizer's step, on real gradients.
    """

    bits: tuple[int, int] = (2, 8)  # least and most
    grids: ClassVar[tuple[str, ...]] = ()  # names of the grids of weights that it takes; none: it is not for weights
    any_grid: ClassVar[bool] = False  # whether it takes others, too, that can be fitted to weights
    inputs: ClassVar[bool] = False  # whether it is for inputs
    learns_bits: ClassVar[bool] = False  # whether training itself finds the bits
    scaled_gradients: ClassVar[bool] = True  # whether gradients may be scaled, as fp16 asks for

    def refit(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Follow the weights at a refresh."""

    def before_step(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Change the gradients of what is learned of weights; after unscaling."""
