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
    """Weights that the target prunes are multiplied by 1 - p, the others by 1: the mask decay of arXiv 2402.04744.

    The target's mask is made anew at every refresh. All weights are in use until p = 1, where the pruned ones go at
    once; so `regrow=never`, hysteresis and the decay on pruned weights have no effect before.
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
