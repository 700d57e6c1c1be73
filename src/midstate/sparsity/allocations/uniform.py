"""The same level everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from midstate.sparsity.allocations.base import Allocation
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class Uniform(Allocation):
    """The same level in every layer (均匀剪枝)."""

    uniform: ClassVar[bool] = True
    coupled: ClassVar[bool] = True

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer, in the same order."""
        return [pattern.target(layer.shape) for layer in layers]
