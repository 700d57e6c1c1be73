"""Factors of pruned weights shrink from 1 to 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.sparsity.layers import LayerView
from midstate.sparsity.paths.base import Path, layer_masks
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class Fade(Path):
    """Weights about to go count 1 - p times, those about to stay once: the mask decay of arXiv 2402.04744.

    Which ones go is asked at every refresh, at the target's level. All are in use until the end, when they go at once;
    so nothing has been pruned before, and what may not regrow, hysteresis and decay on pruned weights begin there.
    """

    fades: ClassVar[bool] = True

    def masks(self, pattern: Pattern, layers: Sequence[LayerView], p: float) -> list[Tensor]:
        """1 on what the target keeps and 1 - p elsewhere; at the end the masks themselves."""
        masks = layer_masks(pattern, layers, [layer.level for layer in layers])
        if p == 1:
            return masks
        return [torch.where(mask, 1.0, 1 - p).to(layer.weight.dtype) for mask, layer in zip(masks, layers, strict=True)]

    def describe(self, pattern: Pattern, level: str, p: float) -> str:
        """The state in a few words."""
        return level if p == 1 else f"{level}, the others at {100 * (1 - p):.0f} %"
