"""Paths: the intermediate states (中间态) a layer passes through from dense to its target.

Each path is a pure function from progress p in [0, 1] to a mask; the end of every path is the target
itself. `weight` and `score` have one shape, `level` is the layer's target as its pattern counts it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from midstate.sparsity import checks
from midstate.sparsity.patterns import GROUP_DIM, NM, grouped, keep_largest
from midstate.sparsity.schedules import Window, floor

ORDERS = ("default", "inverse", "random")


def step_n(n: int, m: int, p: float) -> int:
    """N at progress p on the path that steps N: m - floor((m-n) * p), exactly n at p=1.

    This is MaxQ's N-progressive ramp ("N-M" in the article), arXiv 2312.07061.
    """
    NM(n, m)
    return m - floor((m - n) * checks.number("p", p, 0, 1))


def block_nm_mask(
    weight: Tensor, n: int, m: int, p: float, order: str = "default", generator: Generator | None = None
) -> Tensor:
    """N:M on the blocks already reached at progress p, ones elsewhere (MaxQ's block-progressive ramp).

    A block is one N:M group. Blocks are numbered in the order (out, kh, kw, group) and ranked by their
    L1 norm, summed in fp32, over the whole layer; floor((1-p) * blocks) stay dense.

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
    return Blocks(order).mask(NM(n, m), weight, weight.abs(), n, checks.number("p", p, 0, 1), generator)


def dense_blocks(weight: Tensor, m: int, p: float, order: str, generator: Generator | None) -> Tensor:
    """Mark the weights in blocks that are still dense at progress p: BoolTensor of weight's shape."""
    missing = -weight.shape[1] % m  # zeros complete a partial last block; they add nothing to its norm
    padding = (0, 0) * (weight.dim() - 2) + (0, missing)
    magnitude = nn.functional.pad(weight.abs(), padding) if missing else weight.abs()
    norm = grouped(magnitude, m).sum(GROUP_DIM, dtype=torch.float32)  # (O, G, *K)
    numbered = norm.movedim(1, -1)  # blocks are numbered (out, kh, kw, group)
    num_dense = floor((1 - p) * norm.numel())
    if order == "random":
        dense = torch.zeros(norm.numel(), dtype=torch.bool)
        dense[torch.randperm(norm.numel(), generator=generator)[:num_dense]] = True
        dense = dense.to(norm.device)
    else:
        smallest_stay = -numbered if order == "default" else numbered
        dense = keep_largest(smallest_stay.reshape(-1), num_dense, dim=0)
    blocks = dense.view(numbered.shape).movedim(-1, 1)
    return blocks.repeat_interleave(m, dim=1).narrow(1, 0, weight.shape[1])


class Path:
    """What every path has: a window. Members add `mask` and `describe`."""

    def window(self, window: Window) -> Window:
        """The window this path moves in; the schedule's own unless a path says otherwise."""
        return window


@dataclass(frozen=True)
class Direct(Path):
    """No state between: one jump from dense to the target when the schedule's window opens."""

    def window(self, window: Window) -> Window:
        """The jump is at the window's start; curve and stop have nothing to move."""
        return replace(window, curve="one_shot", stop=window.start)

    def mask(
        self, pattern: NM, weight: Tensor, score: Tensor, level: int, p: float, generator: Generator | None = None
    ) -> Tensor:
        """The pattern at its target once p > 0, all ones before."""
        return pattern.mask(score, level if p > 0 else pattern.full)

    def describe(self, pattern: NM, level: int, p: float) -> str:
        """The state in a few words."""
        return pattern.label(level if p > 0 else pattern.full)


@dataclass(frozen=True)
class StepN(Path):
    """N steps down M:M, M-1:M, ... N:M; M-N-1 states strictly between ("N-M" in the article)."""

    def mask(
        self, pattern: NM, weight: Tensor, score: Tensor, level: int, p: float, generator: Generator | None = None
    ) -> Tensor:
        """The pattern at the N that `step_n` gives."""
        return pattern.mask(score, step_n(level, pattern.full, p))

    def describe(self, pattern: NM, level: int, p: float) -> str:
        """The state in a few words."""
        return pattern.label(step_n(level, pattern.full, p))


@dataclass(frozen=True)
class Blocks(Path):
    """The share of blocks under N:M grows from 0 to 1, in the given order; see `block_nm_mask`."""

    order: str = "default"

    def __post_init__(self) -> None:
        checks.one_of("order", self.order, ORDERS)

    def mask(
        self, pattern: NM, weight: Tensor, score: Tensor, level: int, p: float, generator: Generator | None = None
    ) -> Tensor:
        """The target pattern on the blocks reached, ones on the others."""
        target = pattern.mask(score, level)
        return target | dense_blocks(weight, pattern.m, p, self.order, generator)

    def describe(self, pattern: NM, level: int, p: float) -> str:
        """The state in a few words."""
        return f"{pattern.label(level)} on {100 * p:.0f} % of blocks"
