"""Progressive Gradient Flow's structure decay (arXiv 2402.04744): a path of N:M in a few frames of equal length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.common import checks
from midstate.common.numbers import floor
from midstate.sparsity.layers import LayerView
from midstate.sparsity.paths.base import Path, layer_masks
from midstate.sparsity.patterns.nm import NM, Level

KINDS = ("sparsify", "fine", "densify")
MULTIPLES = (8, 4, 2, 1)  # group sizes of `fine` and `densify`, in multiples of M


@dataclass(frozen=True)
class Frames(Path):
    """From dense, M:M, in as many jumps as there are frames, the last one to the target.

    If kM does not divide a layer's input channels, its groups have the size of the largest smaller multiple of M that
    does, or else M. Layers at level M stay dense.

    Args:
        frames: `sparsify`, M-1:M, M/2:M, M/4:M, ... N:M; `fine`, the target's density in smaller and smaller groups,
            8N:8M, 4N:4M, 2N:2M, N:M; `densify`, N:8M, N:4M, N:2M, N:M, so that most weights go first and some return.
    """

    frames: str = "sparsify"

    def __post_init__(self) -> None:
        checks.one_of("frames", self.frames, KINDS)

    def masks(self, pattern: NM, layers: Sequence[LayerView], p: float) -> list[Tensor]:
        """The pattern of progress p, in groups of the size of its frame."""
        if self.frames == "sparsify":
            return layer_masks(pattern, layers, [self._fewer(layer.level, pattern.m, p) for layer in layers])
        largest = self._largest(p)
        if not largest:
            return layer_masks(pattern, layers, [pattern.m] * len(layers))
        multiples = [_multiple(largest, layer.weight.shape[1], pattern.m) for layer in layers]
        masks: dict[int, Tensor] = {}
        for multiple in set(multiples):
            chosen = [i for i, each in enumerate(multiples) if each == multiple]
            levels = [self._in_groups(layers[i].level, multiple, pattern.m) for i in chosen]
            larger = NM(pattern.n, multiple * pattern.m)
            masks.update(zip(chosen, layer_masks(larger, [layers[i] for i in chosen], levels), strict=True))
        return [masks[i] for i in range(len(layers))]

    def describe(self, pattern: NM, level: str, p: float) -> str:
        """The state in a few words, for layers whose input channels the frame's group size divides."""
        number, _, _ = level.partition(":")
        if not number.isdigit():
            return level if p == 1 else f"{100 * p:.0f} % of the way to {level}"
        if self.frames == "sparsify":
            return pattern.label(self._fewer(int(number), pattern.m, p))
        multiple = self._largest(p)
        if not multiple:
            return pattern.label(pattern.m)
        return f"{self._in_groups(int(number), multiple, pattern.m)}:{multiple * pattern.m}"

    def _fewer(self, level: Level, m: int, p: float) -> Level:
        """N of `sparsify` at progress p."""

        def at(n: int) -> int:
            states = [m, *dict.fromkeys(each for each in (m - 1, *_halves(m)) if each > n), *([n] if n < m else [])]
            return states[floor((len(states) - 1) * p)]

        return _of_each(level, at)

    def _largest(self, p: float) -> int:
        """Group size in multiples of M at progress p, if the channels allow it; 0: dense."""
        return (0, *MULTIPLES)[floor(len(MULTIPLES) * p)]

    def _in_groups(self, level: Level, multiple: int, m: int) -> Level:
        """Number of weights kept in each group of `multiple` * m."""
        return _of_each(level, lambda n: multiple * n if self.frames == "fine" or n == m else n)


def _halves(m: int) -> list[int]:
    return [m >> times for times in range(1, m.bit_length())]


def _multiple(largest: int, channels: int, m: int) -> int:
    """The largest k up to `largest` for which k * m divides the channels; 1 if there is none."""
    return next((k for k in range(largest, 0, -1) if channels % (k * m) == 0), 1)


def _of_each(level: Level, function: Callable[[int], int]) -> Level:
    """Apply a function to one N, or to the N of each filter."""
    return torch.tensor([function(n) for n in level.tolist()]) if isinstance(level, Tensor) else function(level)
