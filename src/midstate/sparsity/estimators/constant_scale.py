"""MaxQ's scale replaced by a constant, the control."""

from dataclasses import dataclass

from torch import Tensor

from midstate.sparsity.estimators.base import Memory
from midstate.sparsity.estimators.multi_axis import MultiAxis
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class ConstantScale(MultiAxis):
    """Control for `MultiAxis`: one constant a layer, the mean of its factors over the kept weights."""

    def scale(self, weight: Tensor, mask: Tensor, pattern: Pattern, level: Level, memory: Memory) -> Tensor:
        """The same factor on every weight."""
        soft = super().scale(weight, mask, pattern, level, memory)
        return soft[mask].mean().expand_as(soft) if mask.any() else soft
