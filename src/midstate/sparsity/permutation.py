"""The search for an order of input channels under which N:M keeps more magnitude: swaps of channels between groups.

The idea of ASP's channel permutation (Pool & Yu 2021); gains of all swaps are computed at once, see `swaps`.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

from midstate.sparsity.swaps import Read, Table
from midstate.sparsity.tensors import Layer

ESCAPES = 100  # restarts when no single swap gains; fewer for large matrices, see WORK
WORK = 2e9  # limit for all restarts together: channels^2 * weights of a channel
WINDOW = 512  # maximum of channels searched together; more are split at random into windows, anew in each pass
PASSES = 4  # maximum, over all windows
LEAST_GAIN = 1e-5  # minimum gain of a swap, relative to what its groups keep; less may be float32 rounding
CANDIDATES = 8  # swaps considered, per channel, when many are made at once


class Reordering(Protocol):
    """Object that orders the channels of one network and folds the order into its layers; a pruner applies it once."""

    def check(self, layers: Collection[Layer]) -> None:
        """Raise ValueError if nothing of these layers can be reordered."""

    def apply(self, layers: Sequence[Layer]) -> Mapping[str, float | bool]:
        """Reorder channels for the layers to prune; return a report of the result."""


@torch.no_grad()
def search_order(
    reads: Sequence[Read],
    n: int,
    m: int,
    generator: Generator,
    seconds: float = float("inf"),
    escapes: int = ESCAPES,
) -> tuple[Tensor, bool]:
    """Look for an order of channels under which all layers together keep the most magnitude at N:M.

    Swaps of largest gain are made first, many at once if they share no group, until none gains. Then the search
    restarts after a few random swaps, and takes the new order if that keeps more. More than `WINDOW` channels are
    searched window by window, in a few passes, without restarts.

    Args:
        reads: one a layer; all read the same k channels, and a group is M neighbours of a layer's C channels.
        n: weights kept in each group.
        m: size of a group; a partial last group of r channels keeps ceil(n*r/m).
        generator: source of random swaps and windows, on the CPU.
        seconds: time after which the best order so far is returned.
        escapes: largest number of restarts.

    Returns:
        The channel that goes to each place, (k,); and whether the search ended before the time was up.
    """
    until = time.monotonic() + seconds
    reads = [Read(each.magnitude.float().clone(), each.places.to(each.magnitude.device)) for each in reads]
    order = torch.arange(len(reads[0].places), device=reads[0].places.device)
    if seconds <= 0:  # for wide layers the first table alone takes seconds
        return order, False
    if len(order) > WINDOW:
        return order, _in_windows(reads, order, n, m, generator, until)
    best = _Search([Table(each, n, m) for each in reads], order)
    done, work = best.descend(until), sum(each.magnitude.numel() for each in reads) * len(order)
    for _ in range(min(escapes, int(WORK / max(work, 1))) if done and best.can_improve() else 0):
        trial = best.copy()
        trial.shake(generator)
        done = trial.descend(until)
        best = trial if trial.kept() > best.kept() * (1 + LEAST_GAIN) else best
        if not done:
            break
    return best.order, done


def _in_windows(reads: Sequence[Read], order: Tensor, n: int, m: int, generator: Generator, until: float) -> bool:
    """Search in windows of about equal size over shuffled groups of the first layer; order and columns change."""
    groups = reads[0].places // m
    for _ in range(PASSES):
        before = order.clone()
        shuffled = (
            torch.randperm(int(groups.max()) + 1, generator=generator).to(groups.device)[groups].argsort(stable=True)
        )
        for places in shuffled.tensor_split(-(-len(order) // WINDOW)):
            search = _Search([Table(Read(each.magnitude, each.places[places]), n, m) for each in reads], order[places])
            done = search.descend(until)
            order[places] = search.order
            if not done:
                return False
        if bool((order == before).all()):
            break
    return True


class _Search:
    """An order, and the tables of all layers under it."""

    def __init__(self, tables: list[Table], order: Tensor) -> None:
        self.tables, self.order = tables, order

    def copy(self) -> "_Search":
        """An independent copy."""
        return _Search([each.copy() for each in self.tables], self.order.clone())

    def kept(self) -> float:
        """Magnitude kept, over all layers."""
        return sum(table.total() for table in self.tables)

    def can_improve(self) -> bool:
        """Tell whether a table has two groups to exchange channels between."""
        return any(len(table.groups.unique()) > 1 for table in self.tables)

    def descend(self, until: float) -> bool:
        """Make swaps until none gains; return False if the time is up before that."""
        while True:
            if time.monotonic() > until:
                return False
            gains = sum(table.gains() for table in self.tables)
            scale = sum(table.kept for table in self.tables)
            gains = gains.where(gains > LEAST_GAIN * (scale[:, None] + scale[None]), 0).triu_(1)
            pairs = self._disjoint(gains)
            if not len(pairs):
                return True
            self._swap(pairs)

    def shake(self, generator: Generator) -> None:
        """Swap a few channels at random."""
        size = len(self.order)
        drawn = torch.randperm(size, generator=generator)[: 2 * max(1, min(4, size // 8))]
        self._swap(drawn.view(-1, 2).to(self.order.device))

    def _swap(self, pairs: Tensor) -> None:
        one, other = pairs.T
        self.order[torch.cat([one, other])] = self.order[torch.cat([other, one])]
        for table in self.tables:
            table.swap(one, other)

    def _disjoint(self, gains: Tensor) -> Tensor:
        """The best swaps, (P, 2), no two of which touch the same group."""
        size = len(gains)
        found, index = gains.flatten().topk(min(gains.numel(), CANDIDATES * size))
        groups = list(dict.fromkeys(tuple(table.groups.tolist()) for table in self.tables))
        used: list[set[int]] = [set() for _ in groups]
        pairs = []
        for place in index[found > 0].tolist():
            one, other = divmod(place, size)
            touched = [{each[one], each[other]} for each in groups]
            if all(taken.isdisjoint(new) for taken, new in zip(used, touched, strict=True)):
                pairs.append((one, other))
                for taken, new in zip(used, touched, strict=True):
                    taken |= new
        return torch.tensor(pairs, dtype=torch.long, device=gains.device).view(-1, 2)
