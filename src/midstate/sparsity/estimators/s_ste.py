"""Estimators that scale kept weights: MaxQ's soft mask, its control, and S-STE's continuous projection.

`scale` is called with every new mask; what it returns is kept beside the mask, and folded into the weights at the end.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.sparsity.estimators.base import Memory
from midstate.sparsity.estimators.ste import STE
from midstate.sparsity.patterns.nm import GROUP_DIM, Level, filled_groups
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class SSTE(STE):
    """S-STE (Hu et al., arXiv 2409.09099): beta * sign(w) * max(|w| - t, 0) forward, the gradient unchanged backward.

    t is the largest pruned |w| of a weight's group, 0 where none is pruned: a weight that leaves the mask has come to 0
    before, so that the layer changes continuously where a hard mask jumps. What another criterion than magnitude keeps
    below t is 0. beta is one number a layer, which brings the weights nearest to the dense ones (least squares): found
    at every refresh on the way, and for good at the first one at the target. Both are found when masks are refreshed;
    between two refreshes each weight keeps its factor.
    """

    scales: ClassVar[bool] = True

    def memory(self, weight: Tensor, pattern: Pattern, level: Level | None) -> Memory:
        """The factors, beta, and whether that is found for good."""
        beta = torch.ones((), device=weight.device)
        return {
            **super().memory(weight, pattern, level),
            "beta": beta,
            "found": torch.zeros_like(beta, dtype=torch.bool),
        }

    def scale(self, weight: Tensor, mask: Tensor, pattern: Pattern, level: Level, memory: Memory) -> Tensor:
        """beta * max(|w| - t, 0) / |w|; the mask itself where nothing in the layer is above its t."""
        magnitude = weight.abs().float()
        shrunk = shrink(magnitude, mask, pattern.m)
        memory["beta"].copy_(torch.where(memory["found"], memory["beta"], nearest_scale(magnitude, shrunk)))
        share = torch.where(shrunk > 0, shrunk / magnitude, 0)
        return torch.where(shrunk.any(), memory["beta"] * share, mask)

    def refreshed(self, weight: Tensor, mask: Tensor, memory: Memory, progress: float) -> None:
        """At the target beta is found."""
        if progress == 1:
            memory["found"].fill_(True)


def shrink(magnitude: Tensor, mask: Tensor, m: int) -> Tensor:
    """max(|w| - t, 0), t the largest |w| that the mask leaves out of each group of m along dim 1.

    Args:
        magnitude: |w|, (O, C) or (O, C, *K).
        mask: what is kept, of its shape.
        m: group size; a partial last group is one, too.
    """
    largest = filled_groups(magnitude.masked_fill(mask, 0), m).amax(GROUP_DIM)
    threshold = largest.repeat_interleave(m, 1).narrow(1, 0, magnitude.shape[1])
    return (magnitude - threshold).clamp_min(0) * mask


def nearest_scale(magnitude: Tensor, shrunk: Tensor) -> Tensor:
    """The scale by which shrunk weights are nearest to the dense ones, <w, S> / <S, S>; 1 where all are 0."""
    tiny = torch.finfo(magnitude.dtype).tiny
    # Over their largest: the squares of small numbers would all be 0.
    largest, rest = (each.amax().clamp_min(tiny) for each in (magnitude, shrunk))
    dense, sparse = magnitude / largest, shrunk / rest
    squares = sparse.square().sum()
    nearest = (dense * sparse).sum() / squares * (largest / rest).clamp_max(1 / tiny)
    return torch.where(squares > 0, nearest, 1)
