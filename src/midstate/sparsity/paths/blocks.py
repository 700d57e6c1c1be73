"""The block-progressive path of N:M: its state is the number of blocks under N:M."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from midstate.common import checks, limits
from midstate.common.numbers import floor
from midstate.sparsity.kernels.selection import keep_largest
from midstate.sparsity.layers import LayerView
from midstate.sparsity.paths.base import Path, layer_masks
from midstate.sparsity.patterns.nm import GROUP_DIM, NM, filled_groups, grouped, rankable


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
    weight = rankable(weight)
    grouped(weight, m)  # raises if C is not divisible by m
    layer = LayerView(weight, level=n, score_of=lambda layer: layer.weight.abs(), generators=lambda *_: generator)
    return Blocks(order).masks(NM(n, m), [layer], checks.number("p", p, 0, 1))[0]


@dataclass(frozen=True)
class Blocks(Path):
    """The share of blocks under N:M grows from 0 to 1, in the given order; see `block_nm_mask`.

    Args:
        order: `default` (largest L1 first), `inverse` (smallest first), `random` (one fixed permutation),
            `random_tick` (a new permutation at every refresh, as in MaxQ's code).
        rank: `layer`, every layer has the same share under N:M; `network`, one ranking of all blocks.
        rerank: `live`, from the present weights, so that blocks may turn dense again (MaxQ); `sticky`, a
            block once under N:M stays there.
        staircase: round the share down to the steps of the n path, floor((M-N)p)/(M-N), so that both have equally
            many states.
    """

    order: str = "default"
    rank: str = "layer"
    rerank: str = "live"
    staircase: bool = False

    def __post_init__(self) -> None:
        limits.blocks(vars(self))

    def masks(self, pattern: NM, layers: Sequence[LayerView], p: float) -> list[Tensor]:
        """The target pattern on the blocks reached, ones on the others."""
        if self.staircase and pattern.num_jumps:
            p = floor(pattern.num_jumps * p) / pattern.num_jumps
        norms = [block_norms(layer.weight, pattern.m) for layer in layers]
        flat = [norm.flatten() for norm in norms]
        sticky = self.rerank == "sticky"
        left = [masked_blocks(layer.mask, pattern.m) if sticky else None for layer in layers]
        if self.rank == "network":
            joint = self._dense(torch.cat(flat), torch.cat(left) if sticky else None, p, layers[0])
            dense = joint.split([len(norm) for norm in flat])
        else:
            dense = [self._dense(flat[i], left[i], p, layer) for i, layer in enumerate(layers)]
        marks = [each.view(norm.shape).movedim(-1, 1).contiguous() for each, norm in zip(dense, norms, strict=True)]
        return layer_masks(pattern, layers, [layer.level for layer in layers], marks)

    def _dense(self, norm: Tensor, left: Tensor | None, p: float, layer: LayerView) -> Tensor:
        """Mark the blocks that are dense at progress p; `left` marks those that are under N:M already."""
        if self.order.startswith("random"):
            generator = layer.generator("order", *([layer.step] if self.order == "random_tick" else []))
            rank = torch.empty(norm.numel())
            rank[torch.randperm(norm.numel(), generator=generator)] = -torch.arange(norm.numel(), dtype=torch.float32)
            rank = rank.to(norm.device)
        else:
            rank = -norm if self.order == "default" else norm
        return stay_longest(rank, floor((1 - p) * norm.numel()), left)

    def describe(self, pattern: NM, level: str, p: float) -> str:
        """The state in a few words."""
        return f"{level} on {100 * p:.0f} % of blocks"


def block_norms(weight: Tensor, m: int) -> Tensor:
    """L1 norm of every block as (O, *K, groups), the order in which blocks are numbered."""
    return filled_groups(weight.abs(), m).sum(GROUP_DIM, dtype=torch.float32).movedim(1, -1)


def masked_blocks(mask: Tensor, m: int) -> Tensor:
    """Mark the blocks with a masked weight, as a vector in the order in which blocks are numbered."""
    return block_norms((~mask).float(), m).flatten() > 0


def spread_blocks(blocks: Tensor, shape: torch.Size, m: int) -> Tensor:
    """From marks of blocks (O, *K, groups) to marks of weights (O, C, *K)."""
    return blocks.movedim(-1, 1).repeat_interleave(m, dim=1).narrow(1, 0, shape[1])


def stay_longest(rank: Tensor, num_stay: int, left: Tensor | None = None) -> Tensor:
    """Mark the `num_stay` blocks of highest rank; blocks that left before are marked only if too few others exist.

    Args:
        rank: one number a block; the highest stay dense longest.
        num_stay: number of blocks to mark.
        left: marks blocks already under N:M; None: none has.
    """
    if left is None or not left.any():
        return keep_largest(rank, num_stay, 0)
    num_first = min(num_stay, int((~left).sum()))
    first = keep_largest(rank.where(~left, -torch.inf), num_first, 0)
    return first | keep_largest(rank.where(left, -torch.inf), num_stay - num_first, 0)
