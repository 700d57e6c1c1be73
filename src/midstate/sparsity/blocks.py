"""Blocks of N:M: their norms, and which of them stay dense longest.

A block is one N:M group. Blocks are numbered in the order (out, kh, kw, group) and ranked by their L1
norm, summed in fp32. At equal rank the lower number stays dense longer.
"""

import torch
from torch import Tensor

from midstate.sparsity.nm import GROUP_DIM, filled_groups
from midstate.sparsity.selection import keep_largest


def block_norms(weight: Tensor, m: int) -> Tensor:
    """L1 norm of every block as (O, *K, groups), the order in which blocks are numbered."""
    return filled_groups(weight.abs(), m).sum(GROUP_DIM, dtype=torch.float32).movedim(1, -1)


def masked_blocks(mask: Tensor, m: int) -> Tensor:
    """Which blocks have a weight masked, as a vector in the order in which blocks are numbered."""
    return block_norms((~mask).float(), m).flatten() > 0


def spread_blocks(blocks: Tensor, shape: torch.Size, m: int) -> Tensor:
    """From marks of blocks (O, *K, groups) to marks of weights (O, C, *K)."""
    return blocks.movedim(-1, 1).repeat_interleave(m, dim=1).narrow(1, 0, shape[1])


def stay_longest(rank: Tensor, num_stay: int, left: Tensor | None = None) -> Tensor:
    """Mark the `num_stay` blocks of highest rank; those that have left before stay only if there is room.

    Args:
        rank: one number a block; the highest stay dense longest.
        num_stay: how many.
        left: marks blocks already under N:M; None: none has.
    """
    if left is None or not left.any():
        return keep_largest(rank, num_stay, 0)
    num_first = min(num_stay, int((~left).sum()))
    first = keep_largest(rank.where(~left, -torch.inf), num_first, 0)
    return first | keep_largest(rank.where(left, -torch.inf), num_stay - num_first, 0)
