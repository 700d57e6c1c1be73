"""No intermediate state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from midstate.sparsity.layers import LayerView
from midstate.sparsity.paths.base import Path, layer_masks
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.schedules import Window


@dataclass(frozen=True)
class Direct(Path):
    """No state between: one jump from dense to the target when the schedule's window opens."""

    def window(self, window: Window) -> Window:
        """One jump at the window's start; the curve and stop of the schedule are ignored."""
        return replace(window, curve="one_shot", stop=window.start)

    def masks(self, pattern: Pattern, layers: Sequence[LayerView], p: float) -> list[Tensor]:
        """The pattern at its target; never called at progress 0."""
        return layer_masks(pattern, layers, [layer.level for layer in layers])

    def describe(self, pattern: Pattern, level: str, p: float) -> str:
        """The state in a few words."""
        return level if p > 0 else "dense"
