"""The n-th largest of a few tensors, entry by entry, by a sorting network of minima and maxima of whole tensors.

A sorting network's comparisons are known beforehand, so they can be made for all groups at once; those that cannot
affect the n-th place are left out.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


def nth_largest_of(tensors: Sequence[Tensor], n: int) -> Tensor:
    """The n-th largest (1 is the largest) of equally shaped tensors, entry by entry.

    NaN in any of them gives NaN.
    """
    wires = list(tensors)
    for high, low, wants_high, wants_low in comparisons(n, len(wires)):
        one, other = wires[high], wires[low]
        if wants_high:
            wires[high] = torch.maximum(one, other)
        if wants_low:
            wires[low] = torch.minimum(one, other)
    return wires[n - 1]


def largest_of(values: Tensor, dim: int) -> Tensor:
    """Maximum along a dimension, which stays with size 1: halves are compared, as slices that are as long as possible.

    NaN in any of them gives NaN.
    """
    while (size := values.shape[dim]) > 1:
        half = size // 2
        larger = torch.maximum(values.narrow(dim, 0, half), values.narrow(dim, half, half))
        if size % 2:
            first = larger.narrow(dim, 0, 1)
            torch.maximum(first, values.narrow(dim, size - 1, 1), out=first)
        values = larger
    return values


@cache
def comparisons(n: int, m: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """The comparisons that bring the n-th largest of m to wire n - 1.

    Returns:
        For each, in order: the wire that takes the larger, the wire that takes the smaller, and whether the first and
        whether the second is read again.
    """
    needed, kept = {n - 1}, []
    for high, low in reversed(_merge_sort(m)):
        if high in needed or low in needed:
            kept.append((high, low, high in needed, low in needed))
            needed |= {high, low}
    return tuple(reversed(kept))


def _merge_sort(m: int) -> list[tuple[int, int]]:
    """Batcher's odd-even merge sort, largest first (Batcher 1968, "Sorting networks and their applications").

    Built for the next power of two; comparisons with wires from m on are left out, as if these held the minimum.
    """
    size = 1 << (m - 1).bit_length()
    pairs = []
    run = 1  # length of the runs of wires that are sorted already
    while run < size:
        distance = run
        while distance:
            for start in range(distance % run, size - distance, 2 * distance):
                for wire in range(start, min(start + distance, size - distance)):
                    if wire // (2 * run) == (wire + distance) // (2 * run):
                        pairs.append((wire, wire + distance))
            distance //= 2
        run *= 2
    return [(high, low) for high, low in pairs if low < m]
