"""An order of channels that suits N:M better, folded into all layers that make or read them; outputs do not change."""

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from midstate.common.seeds import seed_for
from midstate.compaction.exchangeable import Exchangeable, exchangeable_channels
from midstate.distributed.environment import local_rank
from midstate.distributed.processes import same_everywhere
from midstate.sparsity import NM, Layer
from midstate.sparsity.observe import evaluation
from midstate.sparsity.permutation import WINDOW, search_order
from midstate.sparsity.swaps import Read, kept_magnitude
from midstate.sparsity.tensors import is_depthwise, original

log = logging.getLogger(__name__)
CLOSE = 1e-8  # relative, in double precision


class Reordering:
    """Orders the channels of one network, once; all processes of a run take the order that the first one finds.

    `optimizers` and `averages` (moving averages of the network) are reordered with it; add them before `apply`.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, ...],
        pattern: NM,
        seed: int = 0,
    ) -> None:
        """Find the channels that may change places, and check that random orders change no output.

        Args:
            model: a plain model, nothing attached.
            shape: of one image (C, H, W).
            pattern: gives N:M and the time limit of the search.
            seed: for the search's random swaps and the check.

        Raises:
            ValueError: torch.fx cannot trace the model, the model does not take such images, or it treats channels
                by their places in a way that cannot be followed.
        """
        self._model, self._pattern, self._seed = model, pattern, seed
        try:
            self.groups = exchangeable_channels(model, shape)
        except ValueError as error:
            raise ValueError(f"permute=true: {error}; use permute=false") from error
        self.optimizers: list[Optimizer] = []
        self.averages: list[nn.Module] = []
        _check(model, shape, self.groups, seed)

    def check(self, layers: Collection[Layer]) -> None:
        """Raise ValueError if none of the layers to prune reads channels that may change places."""
        if not any(_readers(group, layers, self._pattern) for group in self.groups):
            raise ValueError("permute=true: no layer in scope reads channels that may change places; use permute=false")

    @torch.no_grad()
    def apply(self, layers: Sequence[Layer]) -> dict[str, float | bool]:
        """Search an order and fold it into the network, group by group.

        Args:
            layers: the layers to prune; their masks are still all ones.

        Returns:
            `before` and `after`: the share of the layers' magnitude |w| that N:M keeps; `seconds`; `complete`: whether
            the search came to its end in time.
        """
        started, complete = time.monotonic(), True
        before = self._kept(layers)
        readers = [_readers(group, layers, self._pattern) for group in self.groups]
        work = [
            sum(w.numel() for _, w, _ in each) * min(len(group), WINDOW)
            for each, group in zip(readers, self.groups, strict=True)
        ]
        shown = None if local_rank() == 0 else True
        for i, group in enumerate(tqdm(self.groups, "ordering channels", unit="group", leave=False, disable=shown)):
            if not readers[i]:
                continue
            left = self._pattern.permute_seconds - (time.monotonic() - started)
            reads = [Read(_columns(weight, rows), places) for rows, weight, places in readers[i]]
            generator = Generator().manual_seed(seed_for(self._seed, "permutation", i))
            share = max(work[i] / sum(work[i:]), 1 / (len(work) - i))
            order, done = search_order(reads, self._pattern.n, self._pattern.m, generator, left * share)
            complete = complete and done
            self._fold(group, same_everywhere(order.cpu()))
        report = {
            "before": before,
            "after": self._kept(layers),
            "seconds": time.monotonic() - started,
            "complete": complete,
        }
        _tell(report, self._pattern)
        return report

    def _fold(self, group: Exchangeable, order: Tensor) -> None:
        if bool((order == torch.arange(len(order))).all()):
            return
        fold(self._model, group, order, self.optimizers)
        for average in self.averages:
            fold(average, group, order)

    def _kept(self, layers: Sequence[Layer]) -> float:
        weights = [original(layer.module, layer.tensor_name).detach() for layer in layers]
        kept = sum(kept_magnitude(weight, self._pattern.n, self._pattern.m) for weight in weights)
        return kept / max(sum(float(weight.abs().double().sum()) for weight in weights), 1e-300)


@torch.no_grad()
def fold(model: nn.Module, group: Exchangeable, order: Tensor, optimizers: Sequence[Optimizer] = ()) -> None:
    """Reorder channels in all modules that make or read them, in place.

    Args:
        model: plain, or with masks attached.
        group: channels that may change places.
        order: (k,) index of the channel that goes to each place.
        optimizers: their state of these modules' parameters is reordered, too.
    """
    for name in {**group.filters, **group.reads}:
        module = model.get_submodule(name)
        size = original(module, "weight").shape
        for tensor in _tensors(module):
            followers = _followers(tensor, optimizers)
            if name in group.filters and tensor.dim() and len(tensor) == size[0]:
                for each in followers:
                    _exchange(each, group.filters[name], order)
            if name in group.reads and tensor.shape == size and size[1] > 1:
                for rows, places in _by_block(module, size, group.reads[name]):
                    for each in followers:
                        _exchange(each[rows].transpose(0, 1), places, order)
    for name, places in group.norms.items():
        module = model.get_submodule(name)
        for tensor in _tensors(module):
            if tensor.shape == (module.num_features,):
                for each in _followers(tensor, optimizers):
                    _exchange(each, places, order)


def _followers(tensor: Tensor, optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """A tensor, its gradient and its optimizer state, to be reordered together; state of another shape is dropped."""
    moving = [tensor.detach(), *([tensor.grad] if tensor.grad is not None else [])]
    for optimizer in optimizers:
        state = optimizer.state.get(tensor, {})
        kept = [each for each in state.values() if isinstance(each, Tensor) and each.numel() > 1]
        if all(each.shape == tensor.shape for each in kept):
            moving += kept
        else:
            log.warning(
                f"warning: permute=true: what {type(optimizer).__name__} remembers of a weight {tuple(tensor.shape)} "
                "has another shape and cannot be reordered; it begins anew there"
            )
            optimizer.state.pop(tensor)
    return moving


def _exchange(tensor: Tensor, places: Tensor, order: Tensor) -> None:
    """Reorder the slices at some places (k, j) along dim 0 of a tensor, in place."""
    places = places.to(tensor.device)
    tensor[places.flatten()] = tensor[places[order.to(tensor.device)].flatten()]


def _by_block(module: nn.Module, size: torch.Size, reads: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """For each group of a convolution that reads the channels: its rows of the weight, their places (k, j) in dim 1."""
    groups = getattr(module, "groups", 1)
    blocks, num_rows = reads[0] // size[1], size[0] // groups
    for block in blocks.unique().tolist():
        yield slice(block * num_rows, (block + 1) * num_rows), reads[:, blocks == block] - block * size[1]


def _readers(group: Exchangeable, layers: Collection[Layer], pattern: NM) -> list[tuple[slice, Tensor, Tensor]]:
    """Rows, weight and the channels' places (k,) along dim 1, for each layer in scope that reads each channel once."""
    found = []
    for layer in layers:
        places = group.reads.get(layer.name) if layer.known and layer.tensor_name == "weight" else None
        if places is None or places.shape[1] > 1 or is_depthwise(layer):
            continue
        weight = original(layer.module, layer.tensor_name).detach()
        if pattern.n < pattern.m < weight.shape[1]:
            found += [(rows, weight, each[:, 0]) for rows, each in _by_block(layer.module, weight.shape, places)]
    return found


def _columns(weight: Tensor, rows: slice) -> Tensor:
    return weight[rows].abs().movedim(1, 0).flatten(1).float()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _tell(report: dict[str, float | bool], pattern: NM) -> None:
    gain = 100 * (report["after"] / max(report["before"], 1e-300) - 1)
    log.info(
        f"channels reordered: {pattern.title} keeps {100 * report['after']:.2f} % of the magnitude, {gain:.2f} % more "
        f"than the {100 * report['before']:.2f} % before ({report['seconds']:.1f} s)"
    )
    if not report["complete"]:
        log.warning(
            f"warning: permute_seconds={pattern.permute_seconds:g}: the search for an order of channels was cut short, "
            "and its result depends on how fast this machine is; the same bits come again only with more time"
        )


@torch.no_grad()
def _check(model: nn.Module, shape: tuple[int, ...], groups: Sequence[Exchangeable], seed: int) -> None:
    """Raise ValueError if random orders change what a copy computes, in double precision and with random weights."""
    generator = Generator().manual_seed(seed_for(seed, "permutation check"))
    copy = deepcopy(model).cpu().double()
    for tensor in (*copy.parameters(), *copy.buffers()):
        if tensor.is_floating_point() and tensor.dim() > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / (tensor[0].numel() / 2) ** 0.5)
        elif tensor.is_floating_point() and tensor.dim():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    images = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
    with evaluation(copy):
        before = [each for each in tree_leaves(copy(images)) if isinstance(each, Tensor)]
        for group in groups:
            fold(copy, group, torch.randperm(len(group), generator=generator))
        after = [each for each in tree_leaves(copy(images)) if isinstance(each, Tensor)]
    for one, other in zip(before, after, strict=True):
        if not bool(((one - other).abs() <= CLOSE * one.abs().max()).all()):
            raise ValueError(
                f"permute=true: {type(model).__name__} treats some channels by their places, in a way that cannot be "
                "followed; use permute=false"
            )
