"""Coupled channels of a network: which filters, of which layers, must be removed together to remove a channel."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import nn

from midstate.compaction.joining import Joined, Marks
from midstate.compaction.observing import fitting, traced
from midstate.sparsity import Channel, Coupled, Pattern, weight_layers
from midstate.sparsity.observe import evaluation

Unit = dict[str, list[int]]  # filters of a channel, by name of their layer
Labels = tuple[int, ...]  # a channel's group in the inputs or outputs of each grouped convolution


def coupled_for(pattern: Pattern | None, model: nn.Module, shape: tuple[int, ...]) -> list[Coupled] | None:
    """Coupled channels that a `Channel` pattern ranks, see `coupled_channels`; None for all other patterns."""
    return coupled_channels(model, shape, pattern.heads) if isinstance(pattern, Channel) else None


@torch.no_grad()
def coupled_channels(model: nn.Module, shape: tuple[int, ...], heads: bool = False) -> list[Coupled]:
    """Find all channels that can be removed, and the filters that go with each.

    Filters are joined where their outputs are added or multiplied, by depthwise convolutions, and where a layer reads
    both as one channel. Channels of the model's input and output, and channels that an operation does not treat one by
    one (a norm over channels, attention), stay: they are in no group. Each group of a grouped convolution loses the
    same number of channels.

    Args:
        model: a plain model; it is left as it was.
        shape: of one image (C, H, W).
        heads: whether each head of attention is a channel, too; else attention's inputs and outputs stay.

    Returns:
        Groups of channels; channels of a group have filters in the same layers. Sorted by the first of these layers.

    Raises:
        ValueError: torch.fx cannot trace the model, or the model does not take such images.
    """
    order = {layer.name: i for i, layer in enumerate(weight_layers(model))}
    joined = _followed(model, shape, heads)
    units = _units(joined, order)
    labels = _labels(joined, units)
    alike: dict[tuple, list[int]] = defaultdict(list)
    for root, unit in units.items():
        if root not in labels:
            continue
        members = tuple((name, len(filters)) for name, filters in unit.items())
        read = tuple((which, count) for which, (_, count) in labels[root].items())
        alike[members, read].append(root)
    groups = [
        _group([units[root] for root in roots], [labels[root] for root in roots], joined) for roots in alike.values()
    ]
    return sorted((each for each in groups if each), key=lambda each: min(order[name] for name in each.filters))


def _followed(model: nn.Module, shape: tuple[int, ...], heads: bool) -> Joined:
    """Marks that one forward pass of a copy of the model has joined."""
    name, first = type(model).__name__, next(model.parameters())
    graph = traced(deepcopy(model))
    joined = Joined()
    with fitting(name, shape), evaluation(graph):
        Marks(graph, joined, heads).run(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
    return joined


def _units(joined: Joined, order: Mapping[str, int]) -> dict[int, Unit]:
    """The channels that can be removed, by their mark."""
    units: dict[int, Unit] = defaultdict(lambda: defaultdict(list))
    for name in sorted(joined.filters, key=order.__getitem__):
        for i, mark in enumerate(joined.found(joined.filters[name]).tolist()):
            if not joined.stays(mark):
                units[mark][name].append(i)
    return units


def _labels(joined: Joined, units: Iterable[int]) -> dict[int, dict[int, tuple[int, int]]]:
    """Labels of each channel: {index in `grouped`: (group that the channel lies in, number of its places there)}.

    A channel with equally many places in all groups needs no label; any other channel of several groups is left out.
    """
    labels: dict[int, dict[int, tuple[int, int]]] = {root: {} for root in units}
    for place, (marks, num_groups) in enumerate(joined.grouped):
        blocks: dict[int, Counter[int]] = defaultdict(Counter)
        for i, mark in enumerate(joined.found(marks).tolist()):
            blocks[mark][i * num_groups // len(marks)] += 1
        for root, counts in blocks.items():
            if root not in labels:
                continue
            if len(counts) == 1:
                ((block, count),) = counts.items()
                labels[root][place] = (block, count)
            elif len(counts) < num_groups or len(set(counts.values())) > 1:
                del labels[root]
    return labels


def _group(units: Sequence[Unit], labels: Sequence[Mapping[int, tuple[int, int]]], joined: Joined) -> Coupled | None:
    """Channels that are alike, in blocks; None where the groups of a convolution have unequal numbers of them."""
    blocks: dict[Labels, list[Unit]] = defaultdict(list)
    for unit, each in zip(units, labels, strict=True):
        blocks[tuple(block for block, _ in each.values())].append(unit)
    even = len({len(block) for block in blocks.values()}) == 1
    for i, place in enumerate(labels[0]):
        counts = Counter(key[i] for key in blocks)
        even = even and len(counts) == joined.grouped[place][1] and len(set(counts.values())) == 1
    if not even:
        return None
    arranged = [block for _, block in sorted(blocks.items())]
    filters = {name: torch.tensor([[unit[name] for unit in block] for block in arranged]) for name in units[0]}
    return Coupled({name: each.transpose(0, 1).contiguous() for name, each in filters.items()})
