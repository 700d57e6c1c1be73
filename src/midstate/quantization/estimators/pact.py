"""The clip of a layer's inputs is learned (PACT, Choi et al., arXiv 1805.06085)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from midstate.quantization.estimators.base import Estimator, Kind, Memory, at_least
from midstate.quantization.fixed import FixedSteps
from midstate.quantization.grids.uniform import multiples

NUM_TRIED = 64  # number of clips tried, up to the largest input; the one of least squared error is taken
LEAST_CLIP = 1e-8  # smaller or negative learned clips count as this


class _Clipped(torch.autograd.Function):
    """The nearest multiple of clip / high in [0, clip], or [-clip, clip]; gradients as published.

    Derivative by the clip: 1 where x >= clip (and -1 where x <= -clip), else 0; by x: 1 between, else 0.
    """

    @staticmethod
    def forward(ctx, x: Tensor, clip: Tensor, low: int, high: int) -> Tensor:
        """The quantised tensor."""
        ctx.save_for_backward(x, clip)
        ctx.signed = low < 0
        return multiples(x, clip / high, low, high)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The gradients, as the class says."""
        x, clip = ctx.saved_tensors
        # torch's own derivatives of clipping: on a CPU 20 times faster than a comparison with masked_fill.
        high = float(clip)
        between = torch.ops.aten.hardtanh_backward(gradient, x, -high if ctx.signed else 0.0, high)
        outside = gradient - between
        by_clip = torch.ops.aten.threshold_backward(outside, x, 0).sum()
        if ctx.signed:
            by_clip = by_clip - torch.ops.aten.threshold_backward(outside, -x, 0).sum()
        return between, by_clip.view_as(clip), None, None


@dataclass(frozen=True)
class PACT(Estimator):
    """Inputs in [0, clip], or [-clip, clip] where some are negative, in equal steps; the clip is trained.

    The initial clip has the least squared error on a batch of training images, which is a choice of ours: the paper
    begins at a constant, HAQ's code at min(6, largest input), or below 5 bits at a threshold of least KL divergence.
    """

    inputs: ClassVar[bool] = True

    def memory(self, x: Tensor, kind: Kind) -> Mapping[str, Tensor]:
        """The `clip`, a parameter."""
        return {"clip": nn.Parameter(torch.ones(1, device=x.device))}

    @torch.no_grad()
    def start(self, x: Tensor, kind: Kind, memory: Memory) -> None:
        """Set the clip from a batch of inputs."""
        low, high = _range(kind)
        largest = x.abs().amax().float()
        clips = largest * torch.arange(1, NUM_TRIED + 1, device=x.device) / NUM_TRIED
        errors = [(multiples(x, (clip / high).to(x.dtype), low, high) - x).square_().mean() for clip in clips]
        memory["clip"].copy_(clips[int(torch.stack(errors).argmin())].clamp_min(LEAST_CLIP))

    def apply(self, x: Tensor, kind: Kind, memory: Memory) -> Tensor:
        """The nearest of the values."""
        return _Clipped.apply(x, at_least(memory["clip"], LEAST_CLIP).to(x.dtype), *_range(kind))

    def fixed(self, kind: Kind, memory: Memory) -> nn.Module:
        """The finished quantiser."""
        low, high = _range(kind)
        return FixedSteps(float(memory["clip"].detach().clamp_min(LEAST_CLIP) / high), low, high)


def _range(kind: Kind) -> tuple[int, int]:
    """Least and largest multiple of the step: symmetric for signed inputs, as in HAQ's code."""
    return (-kind.high if kind.signed else 0), kind.high
