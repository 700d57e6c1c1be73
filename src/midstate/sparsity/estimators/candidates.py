"""Learning which combination of each group stays (LBC): one parameter a candidate, trained beside the weights."""

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import torch
from torch import Tensor, nn

from midstate.sparsity.estimators.base import Estimator, Memory
from midstate.sparsity.paths.combinations import combinations_of, in_groups, remaining
from midstate.sparsity.patterns.nm import NM
from midstate.sparsity.schedules import Window


class _Candidates(torch.autograd.Function):
    """weight * mask forward; backward the masked gradient, and a gradient for alpha, (groups, combinations).

    A combination's gradient is the sum of gradient * weight over its positions. A combination that is gone, alpha = 0,
    gets none, as in the released code (alpha * (alpha != 0)).
    """

    @staticmethod
    def forward(ctx, weight: Tensor, mask: Tensor, alpha: Tensor, patterns: Tensor, learning: Tensor) -> Tensor:
        ctx.save_for_backward(weight, mask, alpha, patterns, learning)
        return weight * mask

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
        weight, mask, alpha, patterns, learning = ctx.saved_tensors
        by_group = in_groups(gradient * weight, patterns.shape[1])
        to_alpha = by_group @ patterns.t() * learning * (alpha != 0)
        return gradient * mask, None, to_alpha, None, None


@dataclass(frozen=True)
class LearnedCombinations(Estimator):
    """LBC (Zhang et al., arXiv 2206.06662): each group learns which of its C(M,N) combinations to keep.

    alpha, (groups, C(M,N)), begins at 1 / C(M-1,N-1) and is a parameter like any other, weight decay included. At every
    refresh alpha of the combinations that are gone is set to 0; while it is 0 it gets no gradient, but the optimizer's
    momentum can still move it. Weights get the masked gradient; momentum and weight decay move pruned ones, too, as in
    the released code. Once one combination a group is left, alpha gets no gradient and decides nothing.
    """

    revision: ClassVar[int] = 2  # 1: combinations that were gone got a gradient, too

    def check_window(self, window: Window) -> None:
        """Raise ValueError if there is no step to learn in."""
        if window.stop == 0:
            raise ValueError(
                f"stop=0 (curve {window.curve}): estimator=candidates would keep the first combination of every group, "
                "before a step in which any could learn; use schedule=cubic, or a later schedule.start"
            )

    def memory(self, weight: Tensor, pattern: NM, level: int) -> Memory:
        """alpha, its combinations (C(M,N), M), and a scalar, 1 while it learns; empty if there is one combination."""
        if level in (0, pattern.m):
            return {}
        patterns = combinations_of(level, pattern.m).to(weight.detach(), copy=True)
        first = torch.full(
            (weight.numel() // pattern.m, len(patterns)),
            1 / comb(pattern.m - 1, level - 1),
            dtype=weight.dtype,
            device=weight.device,
        )
        return {"alpha": nn.Parameter(first), "patterns": patterns, "learning": torch.ones_like(patterns[0, 0])}

    def apply(self, weight: Tensor, mask: Tensor, memory: Memory) -> Tensor:
        """weight * mask, with gradients for the weight and for alpha."""
        return _Candidates.apply(weight, mask, *memory.values()) if memory else weight * mask

    def refreshed(self, weight: Tensor, mask: Tensor, memory: Memory, progress: float) -> None:
        """Set alpha to 0 where a combination is gone; at the target alpha stops learning."""
        if not memory:
            return
        alpha = memory["alpha"].detach()
        alpha.mul_(remaining(alpha, progress).view(torch.uint8))
        if progress == 1:
            memory["learning"].zero_()
