"""Paths: the intermediate states (中间态) a network passes through from dense to its target.

Each path is a pure function from progress p in [0, 1] to masks, one a layer; the end of every path is the
target itself.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from midstate.sparsity.kernels.masks import has_kernel, masks_by_kernel
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.schedules import Window


def layer_masks(
    pattern: Pattern, layers: Sequence[LayerView], levels: Sequence[Level], dense: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Masks of the pattern at one level a layer, made layer by layer or, for N:M on a GPU, by one kernel (same bits).

    `dense` marks the groups of N:M that stay dense, (O, groups, *K) for each layer.
    """
    first = layers[0].weight if layers else torch.empty(0)
    if pattern.group == "neighbours" and has_kernel(first.device, first.dtype):
        masks = masks_by_kernel(pattern.m, [layer.score() for layer in layers], levels)
        if masks is not None:
            if dense is None:
                return masks
            return [mask | marks.repeat_interleave(pattern.m, 1) for mask, marks in zip(masks, dense, strict=True)]
    if dense is None:
        return [pattern.mask(layer.score(), level) for layer, level in zip(layers, levels, strict=True)]
    return [pattern.mask(layer.score(), *rest) for layer, *rest in zip(layers, levels, dense, strict=True)]


class Path:
    """Base of paths; members add `masks(pattern, layers, p)` and `describe(pattern, level, p)`.

    Protocol: `window` is called when the pruner is attached, `check_levels` as soon as the target levels are known.
    `masks` is called at every refresh with the progress p in (0, 1]: a pure function, because probes ask for masks
    that are never put in force; at p = 1 it must give the target itself. `describe` returns the name of the state.
    """

    patterns: ClassVar[tuple[str, ...]] = ()  # names of the patterns it works with; empty: all
    probed: ClassVar[bool] = True  # whether its states lie at known places, where gaps can be probed
    fades: ClassVar[bool] = False  # whether masks on the way hold factors, from 0 to 1, on weights that are all in use

    def check_levels(self, pattern: Pattern, levels: Sequence[Level] | None) -> None:
        """Raise ValueError if the path cannot lead to these target levels, one a layer; None: not decided yet."""

    def num_jumps(self, pattern: Pattern) -> int:
        """Jumps from dense to the target, at which gaps are probed; the pattern's own unless a path says otherwise."""
        return pattern.num_jumps

    def window(self, window: Window) -> Window:
        """The window this path moves in; the schedule's own unless a path says otherwise."""
        return window
