"""The share of pruned units rises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midstate.sparsity.paths.base import Path, Place, layer_masks
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class Density(Path):
    """The share of pruned units rises from 0 to the target's, the same way in every layer."""

    patterns: ClassVar[tuple[str, ...]] = ("weight", "row", "filter")
    refusal: ClassVar[str] = (
        "path=density prunes the units of a layer one by one, and pattern={pattern} counts in groups; use pruner/path=n"
    )

    def masks(self, pattern: Pattern, places: Sequence[Place], p: float) -> list[Tensor]:
        """As many units as the level at progress p keeps."""
        return layer_masks(
            pattern, places, [pattern.on_the_way(place.weight.shape, place.level, p) for place in places]
        )

    def describe(self, pattern: Pattern, level: str, p: float) -> str:
        """The state in a few words."""
        return level if p == 1 else f"{100 * p:.0f} % of the way to {level}"
