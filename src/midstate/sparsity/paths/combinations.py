"""The path of N:M through its combinations: fewer and fewer of the C(M,N) ways to keep N of M remain in each group."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from midstate.common.numbers import floor
from midstate.sparsity.kernels.selection import keep_largest, refuse_nan
from midstate.sparsity.layers import LayerView
from midstate.sparsity.paths.base import Path
from midstate.sparsity.patterns.nm import GROUP_DIM, NM, Level, grouped

MOST = 16  # largest number of combinations of a group over its number of weights: 8:16 would have 804


@cache
def combinations_of(n: int, m: int) -> Tensor:
    """Every way to keep n of m, one a row, (C(m,n), m) float: 1 at kept positions; in the order of the positions kept.

    The tensor is cached: do not change it in place.
    """
    rows = torch.zeros(comb(m, n), m)
    return rows.scatter_(1, torch.tensor(list(combinations(range(m), n))).view(len(rows), n), 1)


def in_groups(tensor: Tensor, m: int) -> Tensor:
    """From (O, C) or (O, C, *K), C divisible by m, to one group a row, (O * C/m * K, m)."""
    return grouped(tensor, m).movedim(GROUP_DIM, -1).reshape(-1, m)


def out_of_groups(rows: Tensor, shape: torch.Size, m: int) -> Tensor:
    """The inverse of `in_groups`."""
    return rows.view(shape[0], shape[1] // m, *shape[2:], m).movedim(-1, GROUP_DIM).flatten(1, 2)


def remaining(rank: Tensor, p: float) -> Tensor:
    """Mark the combinations left at progress p: the floor((C-1) * p) of lowest rank are gone, one always stays.

    Args:
        rank: (groups, C).
        p: progress.
    """
    num_combinations = rank.shape[1]
    return keep_largest(rank, num_combinations - floor((num_combinations - 1) * p), 1)


@dataclass(frozen=True)
class Combinations(Path):
    """Candidate combinations of each group go one by one; a weight is in use while a remaining combination includes it.

    There are C(M,N) of them, so C(M,N) - 1 jumps. The estimator `candidates` learns which ones go (LBC, arXiv
    2206.06662); under any other, those with the smallest sum of scores go, so that the path ends at the N:M mask.
    """

    def check_levels(self, pattern: NM, levels: Sequence[Level] | None) -> None:
        """Raise ValueError if a level has too many combinations, before any is built."""
        n = max([pattern.m // 2] if levels is None else levels, key=lambda level: comb(pattern.m, level))
        if (count := comb(pattern.m, n)) <= MOST * pattern.m:
            return
        later = ", which this allocation may come to," if levels is None else ""
        raise ValueError(
            f"n={n}, m={pattern.m}: {pattern.label(n)}{later} has {count:,} combinations a group, "
            f"{count / pattern.m:,.0f} numbers for each weight, and {MOST} are the most; use a smaller m, an n nearer "
            "to 1 or m, or pruner/path=n"
        )

    def masks(self, pattern: NM, layers: Sequence[LayerView], p: float) -> list[Tensor]:
        """The union of the combinations left at progress p."""
        return [self._mask(pattern, layer, p) for layer in layers]

    def _mask(self, pattern: NM, layer: LayerView, p: float) -> Tensor:
        shape, level, m = layer.weight.shape, layer.level, pattern.m
        if level in (0, m):  # there is only one combination
            return pattern.mask(layer.score(), level)
        patterns = combinations_of(level, m).to(layer.weight.device)
        alpha = layer.memory.get("alpha")
        if alpha is None:
            rank = _sums(in_groups(layer.score(), m), patterns)
        elif p == 1 and int(layer.mask.count_nonzero()) == pattern.kept(shape, level):
            return layer.mask.clone()  # one combination was left before: alpha no longer decides
        else:
            refuse_nan(layer.weight)
            rank = alpha.detach()
        used = remaining(rank, p).float() @ patterns > 0
        return out_of_groups(used, shape, m)

    def describe(self, pattern: NM, level: str, p: float) -> str:
        """The state in a few words."""
        number, _, _ = level.partition(":")
        if p == 1 or not number.isdigit():
            return level if p == 1 else f"{100 * p:.0f} % of the way to {level}"
        jumps = comb(pattern.m, int(number)) - 1
        return f"{level}, {jumps + 1 - floor(jumps * p)} of {jumps + 1} combinations"


def _sums(scores: Tensor, patterns: Tensor) -> Tensor:
    """Sums of the scores of each combination; -inf if a weight of it may not come back (a score below 0)."""
    gone = (scores < 0).float() @ patterns.t() > 0
    return (scores.float() @ patterns.t()).masked_fill(gone, -torch.inf)
