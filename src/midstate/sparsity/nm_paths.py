"""Paths of N:M: stepping N, and the block-progressive path, whose state is the number of blocks under N:M."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from midstate.common import checks
from midstate.common.numbers import floor
from midstate.sparsity.blocks import block_norms, masked_blocks, spread_blocks, stay_longest
from midstate.sparsity.nm import NM, Level, grouped
from midstate.sparsity.paths import Path, Place, layer_masks
from midstate.sparsity.schedules import Window

GRANULARITIES = ("layer", "group")
STEPS = ("single", "powers_of_two")
ORDERS = ("default", "inverse", "random", "random_tick")
RANKS = ("layer", "network")
RERANKS = ("live", "sticky")


def step_n(n: int, m: int, p: float) -> int:
    """N at progress p on the path that steps N: m - floor((m-n) * p), exactly n at p=1.

    This is MaxQ's N-progressive ramp ("N-M" in the article), arXiv 2312.07061.
    """
    NM(n, m)
    return StepN().level_at(n, m, checks.number("p", p, 0, 1))


def block_nm_mask(
    weight: Tensor, n: int, m: int, p: float, order: str = "default", generator: Generator | None = None
) -> Tensor:
    """N:M on the blocks already reached at progress p, ones elsewhere (MaxQ's block-progressive ramp).

    Blocks are ranked over the whole layer; floor((1-p) * blocks) stay dense.

    Args:
        weight: (O, C) or (O, C, *K), C divisible by m.
        n: kept per block under N:M, 1..m.
        m: block size.
        p: progress, 0 (all dense) to 1 (all N:M).
        order: `default` reaches the blocks of LARGEST L1 first (the smallest stay dense longest: the
            article's and MaxQ's meaning, the opposite of intuition), `inverse` the smallest first,
            `random` in the order of one permutation drawn from `generator`.
        generator: source of the permutation; a CPU generator.

    Returns:
        BoolTensor of weight's shape. Ties: the lower block number stays dense longer.

    Raises:
        ValueError: n, m, p or order out of range, C not divisible by m, or NaN in weight.
    """
    weight = weight.detach()
    grouped(weight, m)  # refuses what is indivisible
    place = Place(weight, weight.abs, n, torch.ones_like(weight, dtype=torch.bool), generator)
    return Blocks(order).masks(NM(n, m), [place], checks.number("p", p, 0, 1))[0]


@dataclass(frozen=True)
class StepN(Path):
    """N steps down M:M, M-1:M, ... N:M; M-N-1 states strictly between ("N-M" in the article).

    Args:
        granularity: `layer`, all groups of a layer step together; `group`, they step one by one (dithered),
            those of largest L1 norm first, so that there are as many states as groups and steps.
        steps: `single`, or `powers_of_two`: N halves (16, 8, 4, 2, 1), then the target.
    """

    granularity: str = "layer"
    steps: str = "single"
    one_level: ClassVar[str] = "granularity=group"
    patterns: ClassVar[tuple[str, ...]] = ("nm",)
    refusal: ClassVar[str] = (
        "path=n steps the N of N:M, and pattern={pattern} has no N; use pruner/path=density or pruner/path=direct"
    )

    def __post_init__(self) -> None:
        checks.one_of("granularity", self.granularity, GRANULARITIES)
        checks.one_of("steps", self.steps, STEPS)

    @property
    def by_filter(self) -> bool:
        """Tell whether filters of one layer may have levels of their own: groups of a layer step to one N."""
        return self.granularity == "layer"

    def masks(self, pattern: NM, places: Sequence[Place], p: float) -> list[Tensor]:
        """The pattern at the N of progress p."""
        if self.granularity == "layer":
            return layer_masks(pattern, places, [self.level_at(place.level, pattern.m, p) for place in places])
        return [self._dithered(pattern, place, p) for place in places]

    def level_at(self, level: Level, m: int, p: float) -> Level:
        """N at progress p."""
        if isinstance(level, Tensor):
            return torch.tensor([self.level_at(each, m, p) for each in level.tolist()])
        return self._between(level, m, p)[0]

    def _between(self, level: int, m: int, p: float) -> tuple[int, int, float]:
        """The N of progress p, the next, and the share of the way between them."""
        states = list(range(m, level - 1, -1))
        if self.steps == "powers_of_two":
            states = [m]
            while states[-1] // 2 > level:
                states.append(states[-1] // 2)
            states += [level] if level < m else []
        way = (len(states) - 1) * p
        at = floor(way)
        return states[at], states[min(at + 1, len(states) - 1)], max(0.0, way - at)

    def _dithered(self, pattern: NM, place: Place, p: float) -> Tensor:
        now, then, share = self._between(place.level, pattern.m, p)
        score = place.score()
        norm = block_norms(place.weight, pattern.m)
        still = stay_longest(-norm.flatten(), floor((1 - share) * norm.numel())).view(norm.shape)
        reached = pattern.mask(score, then)
        return torch.where(spread_blocks(still, place.weight.shape, pattern.m), pattern.mask(score, now), reached)

    def describe(self, pattern: NM, level: str, p: float) -> str:
        """The state in a few words."""
        target, _, _ = level.partition(":")
        if not target.isdigit():
            return level if p == 1 else f"{100 * p:.0f} % of the way to {level}"
        now, then, share = self._between(int(target), pattern.m, p)
        between = f", {100 * share:.0f} % of groups at {then}" if self.granularity == "group" and share else ""
        return pattern.label(now) + between


@dataclass(frozen=True)
class Blocks(Path):
    """The share of blocks under N:M grows from 0 to 1, in the given order; see `block_nm_mask`.

    Args:
        order: `default` (largest L1 first), `inverse` (smallest first), `random` (one fixed permutation),
            `random_tick` (a new permutation at every refresh, as in MaxQ's code).
        rank: `layer`, every layer has the same share under N:M; `network`, one ranking of all blocks.
        rerank: `live`, from the present weights, so that blocks may turn dense again (MaxQ); `sticky`, a
            block once under N:M stays there.
        staircase: hold the share to the n path's own steps, floor((M-N)p)/(M-N): as few states as there.
    """

    order: str = "default"
    rank: str = "layer"
    rerank: str = "live"
    staircase: bool = False
    patterns: ClassVar[tuple[str, ...]] = ("nm",)
    refusal: ClassVar[str] = (
        "path=blocks counts the blocks under N:M, and pattern={pattern} has none; use pruner/path=density or direct"
    )

    def __post_init__(self) -> None:
        checks.one_of("order", self.order, ORDERS)
        checks.one_of("rank", self.rank, RANKS)
        checks.one_of("rerank", self.rerank, RERANKS)
        checks.boolean("staircase", self.staircase)

    @property
    def redraws(self) -> bool:
        """Tell whether the order is drawn anew at every refresh."""
        return self.order == "random_tick"

    def masks(self, pattern: NM, places: Sequence[Place], p: float) -> list[Tensor]:
        """The target pattern on the blocks reached, ones on the others."""
        if self.staircase and pattern.num_jumps:
            p = floor(pattern.num_jumps * p) / pattern.num_jumps
        norms = [block_norms(place.weight, pattern.m) for place in places]
        flat = [norm.flatten() for norm in norms]
        sticky = self.rerank == "sticky"
        left = [masked_blocks(place.mask, pattern.m) if sticky else None for place in places]
        if self.rank == "network":
            joint = self._dense(torch.cat(flat), torch.cat(left) if sticky else None, p, places[0].generator)
            dense = joint.split([len(norm) for norm in flat])
        else:
            dense = [self._dense(flat[i], left[i], p, place.generator) for i, place in enumerate(places)]
        marks = [each.view(norm.shape).movedim(-1, 1).contiguous() for each, norm in zip(dense, norms, strict=True)]
        return layer_masks(pattern, places, [place.level for place in places], marks)

    def _dense(self, norm: Tensor, left: Tensor | None, p: float, generator: Generator | None) -> Tensor:
        """Mark the blocks that are dense at progress p; `left` marks those that left that state before."""
        if self.order.startswith("random"):
            rank = torch.empty(norm.numel())
            rank[torch.randperm(norm.numel(), generator=generator)] = -torch.arange(norm.numel(), dtype=torch.float32)
            rank = rank.to(norm.device)
        else:
            rank = -norm if self.order == "default" else norm
        return stay_longest(rank, floor((1 - p) * norm.numel()), left)

    def describe(self, pattern: NM, level: str, p: float) -> str:
        """The state in a few words."""
        return f"{level} on {100 * p:.0f} % of blocks"


@dataclass(frozen=True)
class Search(Path):
    """Every layer at the N that a searching allocation has brought it down to; the schedule's curve is its time."""

    patterns: ClassVar[tuple[str, ...]] = ("nm",)
    refusal: ClassVar[str] = (
        "path=search walks down the N of N:M, and pattern={pattern} has no N; use pruner/pattern=nm"
    )
    probed: ClassVar[bool] = False  # its states are not known beforehand

    def window(self, window: Window) -> Window:
        """The schedule's own.

        Raises:
            ValueError: it has no time for a search.
        """
        if window.curve == "one_shot" or window.stop <= window.start:
            raise ValueError(
                "path=search: needs time between schedule.start and schedule.stop; use schedule=linear and a later stop"
            )
        return window

    def masks(self, pattern: NM, places: Sequence[Place], p: float) -> list[Tensor]:
        """The pattern at the levels found so far."""
        return layer_masks(pattern, places, [place.level for place in places])

    def describe(self, pattern: NM, level: str, p: float) -> str:
        """The state in a few words."""
        return level if p == 1 else f"{level}, {100 * p:.0f} % of the search's window"
