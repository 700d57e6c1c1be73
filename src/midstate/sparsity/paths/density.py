"""The share of pruned units rises."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from midstate.common import limits
from midstate.common.numbers import floor
from midstate.sparsity.layers import LayerView
from midstate.sparsity.paths.base import Path, layer_masks
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class Density(Path):
    """The share of pruned units rises from 0 to the target's, the same way in every layer.

    Args:
        states: number of equal jumps in which the share rises, as N:M has; None: unit by unit.
    """

    states: int | None = None

    def __post_init__(self) -> None:
        limits.density(vars(self))

    def num_jumps(self, pattern: Pattern) -> int:
        """`states` if given, else the pattern's own number."""
        return self.states or pattern.num_jumps

    def masks(self, pattern: Pattern, layers: Sequence[LayerView], p: float) -> list[Tensor]:
        """The pattern at the level of progress p."""
        if self.states:
            p = floor(self.states * p) / self.states
        return layer_masks(
            pattern, layers, [pattern.on_the_way(layer.weight.shape, layer.level, p) for layer in layers]
        )

    def describe(self, pattern: Pattern, level: str, p: float) -> str:
        """The state in a few words."""
        if self.states:
            p = floor(self.states * p) / self.states
        return level if p == 1 else f"{100 * p:.0f} % of the way to {level}"
