"""The levels of an allocation that searches while training goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midstate.sparsity.layers import LayerView
from midstate.sparsity.paths.base import Path, layer_masks
from midstate.sparsity.patterns.nm import NM
from midstate.sparsity.schedules import Window


@dataclass(frozen=True)
class Search(Path):
    """Every layer at the N that a searching allocation has reached; the schedule's progress is the search's time."""

    probed: ClassVar[bool] = False  # its states are not known beforehand

    def window(self, window: Window) -> Window:
        """The schedule's own window.

        Raises:
            ValueError: the window has no step for a search (one_shot, or stop at start).
        """
        if window.curve == "one_shot" or window.stop <= window.start:
            raise ValueError(
                "path=search: needs time between schedule.start and schedule.stop; use schedule=linear and a later stop"
            )
        return window

    def masks(self, pattern: NM, layers: Sequence[LayerView], p: float) -> list[Tensor]:
        """The pattern at the levels found so far."""
        return layer_masks(pattern, layers, [layer.level for layer in layers])

    def describe(self, pattern: NM, level: str, p: float) -> str:
        """The state in a few words."""
        return level if p == 1 else f"{level}, {100 * p:.0f} % of the search's window"
