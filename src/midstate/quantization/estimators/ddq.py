"""Levels and bits are learned (DDQ, Zhang et al., arXiv 2106.02295; no code was released).

A tensor has n = 2^b levels q, and b gates. With s open gates its values are the means of 2^(b-s) neighbouring levels:
x_q is the nearest of U^T q / Z, with U = U_1 (x) ... (x) U_b (Kronecker), U_i = g_i I + (1 - g_i) 1, and Z the mean row
sum of U. Gates are sorted, open ones first: otherwise the values would not be in order.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from midstate.common import checks
from midstate.quantization.estimators.base import Estimator, Kind, Memory
from midstate.quantization.fixed import FixedLevels
from midstate.quantization.grids.levels import Levels, nearest_index, taken

LEAST_BITS = 2  # number of gates that are always open


class Gate(torch.autograd.Function):
    """1 where a gate's number is 0 or more, else 0; the gradient passes where |number| <= 1."""

    @staticmethod
    def forward(ctx, numbers: Tensor) -> Tensor:
        """1 where a gate is open, else 0."""
        ctx.save_for_backward(numbers)
        return (numbers >= 0).to(numbers.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """The gradients, as the class says."""
        (numbers,) = ctx.saved_tensors
        return gradient * (numbers.abs() <= 1)


class _Nearest(torch.autograd.Function):
    """The nearest of ascending levels; the gradient passes to x between the first and the last.

    The gradient of a level is the sum over the elements rounded to it, times `scale`. `correction` is lambda: it adds
    lambda * (x_q - x) to each element of this sum, but not to the gradient of x.
    """

    @staticmethod
    def forward(ctx, x: Tensor, levels: Tensor, scale: float, correction: float) -> Tensor:
        """The quantised tensor."""
        index = nearest_index(x, levels)
        quantised = taken(levels, index)
        ctx.save_for_backward(x, index, quantised, levels)
        ctx.factors = scale, correction
        return quantised

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The gradients, as the class says."""
        x, index, quantised, levels = ctx.saved_tensors
        scale, correction = ctx.factors
        seen = torch.add(gradient, quantised - x, alpha=correction) if correction else gradient
        by_levels = torch.zeros_like(levels).index_add_(0, index.flatten(), seen.flatten())
        outside = (x < levels[0]).logical_or_(x > levels[-1])
        return gradient.masked_fill(outside, 0), by_levels.mul_(scale), None, None


def mixed(levels: Tensor, gates: Tensor) -> Tensor:
    """U^T q / Z, (2^b,): where gates are closed, neighbours have one value, their mean.

    Args:
        levels: q, (2^b,).
        gates: (b,), each 0 or 1, ones first; the gradient is that of the formula for real values from 0 to 1.
    """
    for i, gate in enumerate(gates):
        pairs = levels.view(2**i, 2, -1)
        levels = ((gate * pairs + (1 - gate) * pairs.sum(1, keepdim=True)) / (2 - gate)).flatten()
    return levels


def open_gates(numbers: Tensor) -> Tensor:
    """Gates sorted, open ones first, (b,); the first two are always open."""
    gates = Gate.apply(numbers)
    gates = gates[gates.detach().argsort(descending=True, stable=True)]
    return torch.cat([torch.ones_like(gates[:LEAST_BITS]).detach(), gates[LEAST_BITS:]])


@dataclass(frozen=True)
class DDQ(Estimator):
    """Learned levels, and one gate a bit: the number of open gates of a tensor is its number of bits.

    Choices of ours, where the paper is silent or its text was not at hand: levels begin equally spaced over the
    tensor's range, are learned in its units, and are not rounded themselves; the gradients of levels and gates are
    scaled by 1 / sqrt(elements per level), similar to LSQ; two gates are always open.

    Args:
        grid: gives the number of levels of weights; None for inputs.
        max_bits: number of gates of a layer's inputs.
        gate: initial number of each gate, 0 to 1; below .1 gates close at the first step.
        correction: lambda of the gradient correction.
    """

    grid: Levels | None = None
    max_bits: int = 8
    gate: float = 0.1
    correction: float = 1e-4
    grids: ClassVar[tuple[str, ...]] = ("levels",)
    inputs: ClassVar[bool] = True
    learns_bits: ClassVar[bool] = True
    scaled_gradients: ClassVar[bool] = False  # the correction is not part of the loss, so it would not be scaled

    def __post_init__(self) -> None:
        checks.integer("max_bits", self.max_bits, LEAST_BITS, 8)
        checks.number("gate", self.gate, 0, 1)
        checks.number("correction", self.correction, 0)

    @property
    def bits(self) -> tuple[int, int]:
        """Fewest and most bits."""
        return LEAST_BITS, self._max_bits

    @property
    def _max_bits(self) -> int:
        return self.grid.max_bits if self.grid else self.max_bits

    def memory(self, x: Tensor, kind: Kind) -> Mapping[str, Tensor]:
        """Parameters: the `levels`, (2^b,), and, if bits are learned, the numbers of the `gates`, (b,)."""
        bits = self._max_bits if kind.learned else max(self._max_bits, kind.bits)
        levels = {"levels": nn.Parameter(torch.linspace(-1, 1, 2**bits, device=x.device))}
        if not kind.learned:
            return levels
        return {**levels, "gates": nn.Parameter(torch.full((self._max_bits,), self.gate, device=x.device))}

    @torch.no_grad()
    def start(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Space the levels equally from -max |x| to max |x|, or from 0 to max |x| if the tensor is not signed."""
        high, levels = x.abs().amax().float(), memory["levels"]
        levels.copy_(torch.linspace(-1.0 if kind.signed else 0.0, 1.0, len(levels)).to(x.device) * high)

    def apply(self, x: Tensor, kind: Kind, memory: Memory) -> Tensor:
        """The nearest of the values."""
        levels = self._ascending(kind, memory)
        return self._nearest(x, levels, 0.0 if kind.weights else self.correction)

    def before_step(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Add the gradient correction of weights, once a step."""
        if self.correction and memory["levels"].grad is not None:
            with torch.enable_grad():
                quantised = self._nearest(x.detach(), self._ascending(kind, memory), 0.0)
                quantised.backward(self.correction * (quantised.detach() - x.detach()))

    def values(self, kind: Kind, memory: Memory) -> Tensor:
        """All values, (1, 2^s)."""
        with torch.no_grad():
            return self._ascending(kind, memory)[None]

    def fixed(self, kind: Kind, memory: Memory) -> nn.Module:
        """The finished quantiser of inputs."""
        return FixedLevels(self.values(kind, memory)[0])

    def bits_of(self, memory: Memory) -> Tensor:
        """Number of open gates; differentiable with the gradient of `Gate`."""
        return open_gates(memory["gates"]).sum()

    def _ascending(self, kind: Kind, memory: Memory) -> Tensor:
        """The values in force, (2^s,), ascending."""
        levels = memory["levels"]
        if "gates" not in memory:
            return levels.view(2**kind.bits, -1).mean(1).sort().values
        gates = open_gates(memory["gates"])
        each = 2 ** (self._max_bits - int(gates.detach().sum()))
        return mixed(levels, gates)[::each].sort().values  # the first of equal neighbours, as argmin would take

    @staticmethod
    def _nearest(x: Tensor, levels: Tensor, correction: float) -> Tensor:
        scale = math.sqrt(len(levels) / x.numel())
        return _Nearest.apply(x, levels.to(x.dtype), scale, correction)
