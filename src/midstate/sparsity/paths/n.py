"""N falls from M to its target, one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.common import checks, limits
from midstate.common.numbers import floor
from midstate.sparsity.layers import LayerView
from midstate.sparsity.paths.base import Path, layer_masks
from midstate.sparsity.paths.blocks import block_norms, spread_blocks, stay_longest
from midstate.sparsity.patterns.nm import NM, Level


def step_n(n: int, m: int, p: float) -> int:
    """N at progress p on the path that steps N: m - floor((m-n) * p), exactly n at p=1.

    This is MaxQ's N-progressive ramp ("N-M" in the article), arXiv 2312.07061.
    """
    NM(n, m)
    return StepN().level_at(n, m, checks.number("p", p, 0, 1))


@dataclass(frozen=True)
class StepN(Path):
    """N steps down M:M, M-1:M, ... N:M; M-N-1 states strictly between ("N-M" in the article).

    Args:
        granularity: `layer`, all groups of a layer step together; `group`, they step one by one (dithered),
            those of largest L1 norm first, so that there are groups * steps states.
        steps: `single`, or `powers_of_two`: N halves (16, 8, 4, 2, 1), then the target.
    """

    granularity: str = "layer"
    steps: str = "single"

    def __post_init__(self) -> None:
        limits.step_n(vars(self))

    def masks(self, pattern: NM, layers: Sequence[LayerView], p: float) -> list[Tensor]:
        """The pattern at the N of progress p."""
        if self.granularity == "layer":
            return layer_masks(pattern, layers, [self.level_at(layer.level, pattern.m, p) for layer in layers])
        return [self._dithered(pattern, layer, p) for layer in layers]

    def level_at(self, level: Level, m: int, p: float) -> Level:
        """N at progress p."""
        if isinstance(level, Tensor):
            return torch.tensor([self.level_at(each, m, p) for each in level.tolist()])
        return self._between(level, m, p)[0]

    def _between(self, level: int, m: int, p: float) -> tuple[int, int, float]:
        """N at progress p, the next N, and the share of the way between them."""
        states = list(range(m, level - 1, -1))
        if self.steps == "powers_of_two":
            states = [m]
            while states[-1] // 2 > level:
                states.append(states[-1] // 2)
            states += [level] if level < m else []
        way = (len(states) - 1) * p
        at = floor(way)
        return states[at], states[min(at + 1, len(states) - 1)], max(0.0, way - at)

    def _dithered(self, pattern: NM, layer: LayerView, p: float) -> Tensor:
        now, then, share = self._between(layer.level, pattern.m, p)
        score = layer.score()
        norm = block_norms(layer.weight, pattern.m)
        still = stay_longest(-norm.flatten(), floor((1 - share) * norm.numel())).view(norm.shape)
        reached = pattern.mask(score, then)
        return torch.where(spread_blocks(still, layer.weight.shape, pattern.m), pattern.mask(score, now), reached)

    def describe(self, pattern: NM, level: str, p: float) -> str:
        """The state in a few words."""
        target, _, _ = level.partition(":")
        if not target.isdigit():
            return level if p == 1 else f"{100 * p:.0f} % of the way to {level}"
        now, then, share = self._between(int(target), pattern.m, p)
        between = f", {100 * share:.0f} % of groups at {then}" if self.granularity == "group" and share else ""
        return pattern.label(now) + between
