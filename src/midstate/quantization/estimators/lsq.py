"""The step size is learned (LSQ, Esser et al., arXiv 1902.08153)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from midstate.quantization.estimators.base import Estimator, Kind, Memory, at_least
from midstate.quantization.fixed import FixedSteps
from midstate.quantization.grids.uniform import Uniform, multiples, positive

LEAST_STEP = 1e-8  # smaller or negative learned steps count as this


class _Learned(torch.autograd.Function):
    """round(clip(x/s, low, high)) * s, with the published gradients of x and s.

    The derivative by s is round(x/s) - x/s inside the range and low or high outside it. Its product with the incoming
    gradient g, summed over a step's elements, is (sum(g * x_q) - sum(g * inside * x)) / s; `scale` multiplies it.
    """

    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor, low: int, high: int, scale: float) -> Tensor:
        """The quantised tensor."""
        quantised = multiples(x, step, low, high)
        ctx.save_for_backward(x, step, quantised)
        ctx.range = low, high, scale
        return quantised

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The gradients, as the class says."""
        x, step, quantised = ctx.saved_tensors
        low, high, scale = ctx.range
        by_x = gradient * ((x > low * step) & (x < high * step))
        by_step = (gradient * quantised).sub_(by_x * x)
        by_step = by_step.sum_to_size(step.shape) if step.numel() > 1 else by_step.sum().view_as(step)
        return by_x, by_step.mul_(scale).div_(step), None, None, None


@dataclass(frozen=True)
class LSQ(Estimator):
    """A step size that is trained with the weights.

    Its gradient is scaled by 1 / sqrt(N * high), where N weights share the step, or N elements of one image's inputs
    (section 2.2); its initial value is 2 * mean|x| / sqrt(high). Signed numbers have the multiples
    -2^(b-1) ... 2^(b-1) - 1, others 0 ... 2^b - 1.

    Args:
        grid: for weights `Uniform`, with one step a layer or one a filter; None for inputs: one step a layer.
    """

    grid: Uniform | None = None
    grids: ClassVar[tuple[str, ...]] = ("uniform",)
    inputs: ClassVar[bool] = True

    @property
    def revision(self) -> int:
        """2 of inputs: N counted all images of a batch before."""
        return 2 if self.grid is None else 1

    def memory(self, x: Tensor, kind: Kind) -> Mapping[str, Tensor]:
        """The `step`, a parameter, (1,) or (O, 1, *1)."""
        step = torch.ones(1, device=x.device) if self.grid is None else self.grid.memory(x, kind.bits)["step"]
        return {"step": nn.Parameter(step)}

    @torch.no_grad()
    def start(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Set the step from the tensor; zero weights, such as masked ones, do not count."""
        step = memory["step"]
        rows = x.flatten(1) if step.numel() > 1 else x.reshape(1, -1)
        mean = rows.abs().sum(1) / rows.count_nonzero(1).clamp_min(1) if kind.weights else rows.abs().mean(1)
        step.copy_((2 * mean / math.sqrt(kind.high)).clamp_min(LEAST_STEP).view(step.shape))

    def apply(self, x: Tensor, kind: Kind, memory: Memory) -> Tensor:
        """The nearest multiple of the step."""
        step = memory["step"]
        num = x.numel() / step.numel() if kind.weights else max(1, math.prod(x.shape[1:] or x.shape))
        scale = 1 / math.sqrt(num * kind.high)
        return _Learned.apply(x, positive(at_least(step, LEAST_STEP).to(x.dtype)), kind.low, kind.high, scale)

    def values(self, kind: Kind, memory: Memory) -> Tensor:
        """All multiples, (rows, 2^b)."""
        steps = memory["step"].detach().clamp_min(LEAST_STEP).reshape(-1, 1)
        return steps * torch.arange(kind.low, kind.high + 1, dtype=steps.dtype, device=steps.device)

    def fixed(self, kind: Kind, memory: Memory) -> nn.Module:
        """The finished quantiser of inputs."""
        return FixedSteps(float(memory["step"].detach().clamp_min(LEAST_STEP)), kind.low, kind.high)
