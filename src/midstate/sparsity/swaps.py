"""Magnitude that a layer keeps at N:M after a swap of two channels, for all swaps at once.

When one channel of a group is replaced, the N-1 largest of the other weights are kept, and the larger of the incoming
weight and the N-th of the others. A sum of max(a, b) is (sum of a + sum of b + L1 distance) / 2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Read:
    """How one layer reads channels that may be exchanged.

    Args:
        magnitude: |w| with one row for each input channel, (C, R), in the layer's order of channels.
        places: (k,) the row of each of the k channels; all other rows stay.
    """

    magnitude: Tensor
    places: Tensor


def kept_magnitude(weight: Tensor, n: int, m: int) -> float:
    """Sum of |w| that N:M keeps of a weight (O, C) or (O, C, *K), groups along the input channels."""
    columns = weight.detach().abs().movedim(1, 0).flatten(1).double()
    sorted_, kept = _sorted(columns, n, m)
    return float(_top(sorted_, kept).sum())


class Table:
    """Magnitude that each group of one layer keeps, and would keep with one of its channels replaced by another."""

    def __init__(self, read: Read, n: int, m: int) -> None:
        self.n, self.m = n, m
        self.columns, self.places = read.magnitude, read.places  # columns change in place
        self.groups = self.places // m  # (k,) group of each channel
        size = len(self.places)
        self.replaced = self.columns.new_zeros(size, size)  # [i, j]: kept by i's group with channel j in the place of i
        self.kept = self.columns.new_zeros(size)  # kept by each channel's group
        self.refresh(torch.arange(size, device=self.columns.device))

    def copy(self) -> "Table":
        """An independent copy."""
        other = object.__new__(Table)
        other.__dict__ |= {**self.__dict__, "columns": self.columns.clone(), "replaced": self.replaced.clone()}
        other.kept = self.kept.clone()
        return other

    def refresh(self, slots: Tensor) -> None:
        """Recompute the entries of some channels: of all channels in their groups."""
        which, inverse = self.groups[slots].unique(return_inverse=True)
        rows = (which[:, None] * self.m + torch.arange(self.m, device=which.device)).flatten()
        padded = F.pad(self.columns, (0, 0, 0, -len(self.columns) % self.m))[rows]
        sorted_, kept = _sorted(padded, self.n, self.m, len(self.columns) - int(which[-1]) * self.m)
        nth, following = _at(sorted_, kept - 1), _at(F.pad(sorted_, (0, 0, 0, 1)), kept)
        top = _top(sorted_, kept)
        own = self.columns[self.places[slots]]
        nth, top_of = nth[inverse], top[inverse]
        is_kept = own >= nth
        rival = torch.where(is_kept, following[inverse], nth)  # kept, unless the incoming weight is larger
        others = (top_of - torch.where(is_kept, own, nth)).sum(1)
        coming = self.columns[self.places]
        larger = (coming.sum(1)[None] + rival.sum(1)[:, None] + torch.cdist(rival, coming, p=1)) / 2
        self.replaced[slots] = others[:, None] + larger
        self.kept[slots] = top_of.sum(1)

    def gains(self) -> Tensor:
        """Gain in kept magnitude from swapping two channels, (k, k); 0 within a group."""
        gains = self.replaced + self.replaced.T - self.kept[:, None] - self.kept[None]
        return gains.masked_fill_(self.groups[:, None] == self.groups[None], 0)

    def swap(self, one: Tensor, other: Tensor) -> None:
        """Exchange channels pair by pair."""
        here, there = torch.cat([one, other]), torch.cat([other, one])
        self.columns[self.places[here]] = self.columns[self.places[there]]
        self.replaced[:, here] = self.replaced[:, there]
        touched = torch.isin(self.groups, self.groups[here])
        self.refresh(touched.nonzero().flatten())

    def total(self) -> float:
        """Magnitude kept in all groups that hold one of the channels."""
        by_group = self.kept.new_zeros(int(self.groups.max()) + 1).index_put((self.groups,), self.kept)
        return float(by_group.double().sum())


def _sorted(columns: Tensor, n: int, m: int, left: int | None = None) -> tuple[Tensor, Tensor]:
    """Groups of M rows, each column in descending order, (G, M, R), and the number that each group keeps, (G,).

    Args:
        columns: (C, R); zeros fill up a partial last group.
        n: number kept of M.
        m: size of a group.
        left: rows in the last group; None: computed from C.
    """
    left = len(columns) - (len(columns) - 1) // m * m if left is None else min(left, m)
    groups = F.pad(columns, (0, 0, 0, -len(columns) % m)).unflatten(0, (-1, m))
    kept = torch.full((len(groups),), n, device=columns.device)
    kept[-1] = -(-n * left // m)
    return groups.sort(1, descending=True).values, kept


def _at(sorted_: Tensor, index: Tensor) -> Tensor:
    """One row of each group, (G, R)."""
    return sorted_[torch.arange(len(sorted_), device=index.device), index]


def _top(sorted_: Tensor, kept: Tensor) -> Tensor:
    """Sum of the kept entries of each group, (G, R)."""
    return _at(F.pad(sorted_.cumsum(1), (0, 0, 1, 0)), kept)
