"""S-STE's continuous projection onto N:M, as a scale of the kept weights.

`scale` is called with every new mask; its result is kept beside the mask, and folded into the weights at the end.
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

    t is the largest pruned |w| of a weight's group, 0 where none is pruned: a weight has shrunk to 0 when it leaves the
    mask, so that the layer changes continuously where a hard mask jumps. Kept weights below t, under another criterion
    than magnitude, are 0. beta is one number a layer that brings the weights nearest to the dense ones (least squares);
    it is computed at every refresh, and fixed from the first refresh at the target on. Between two refreshes each
    weight keeps its factor.
    """

    scales: ClassVar[bool] = True

    def memory(self, weight: Tensor, pattern: Pattern, level: Level | None) -> Memory:
        """`scale`, the factors; `beta`; and `found`, whether beta is fixed."""
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
        """Fix beta at the target."""
        if progress == 1:
            memory["found"].fill_(True)


def shrink(magnitude: Tensor, mask: Tensor, m: int) -> Tensor:
    """max(|w| - t, 0), t the largest |w| that the mask leaves out of each group of m along dim 1.

    Args:
        magnitude: |w|, (O, C) or (O, C, *K).
        mask: bool, magnitude's shape; marks the kept weights.
        m: group size; a partial last group counts as a group.
    """
    largest = filled_groups(magnitude.masked_fill(mask, 0), m).amax(GROUP_DIM)
    threshold = largest.repeat_interleave(m, 1).narrow(1, 0, magnitude.shape[1])
    return (magnitude - threshold).clamp_min(0) * mask


def nearest_scale(magnitude: Tensor, shrunk: Tensor) -> Tensor:
    """The factor that brings shrunk weights nearest to the dense ones, <w, S> / <S, S>; 1 if all are 0."""
    tiny = torch.finfo(magnitude.dtype).tiny
    # Both are divided by their maxima first: the squares of small numbers would underflow to 0.
    largest, rest = (each.amax().clamp_min(tiny) for each in (magnitude, shrunk))
    dense, sparse = magnitude / largest, shrunk / rest
    squares = sparse.square().sum()
    nearest = (dense * sparse).sum() / squares * (largest / rest).clamp_max(1 / tiny)
    return torch.where(squares > 0, nearest, 1)
