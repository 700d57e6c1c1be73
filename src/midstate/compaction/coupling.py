"""Coupled channels of a network: which filters, of which layers, have to go together for a channel to be gone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import nn

from midstate.common.errors import first_line
from midstate.compaction.joining import Joined, Marks
from midstate.compaction.observing import traced
from midstate.sparsity import Channel, Coupled, Pattern, weight_layers
from midstate.sparsity.observe import evaluation

Unit = dict[str, list[int]]  # filters of a channel, by name of their layer
Labels = tuple[int, ...]  # the groups it lies in, one a grouped convolution's inputs or outputs


def coupled_for(pattern: Pattern | None, model: nn.Module, shape: tuple[int, ...]) -> list[Coupled] | None:
    """What a pattern of coupled channels ranks, see `coupled_channels`; None for all other patterns."""
    return coupled_channels(model, shape, pattern.heads) if isinstance(pattern, Channel) else None


@torch.no_grad()
def coupled_channels(model: nn.Module, shape: tuple[int, ...], heads: bool = False) -> list[Coupled]:
    """Find all channels that can go, and which filters each takes with it.

    Filters are joined where their outputs are added or multiplied, by depthwise convolutions, and where a layer reads
    both as one channel. What an operation does not treat channel by channel (a norm over channels, attention), and
    what is an output, stays: it is in no group. In a grouped convolution's inputs and outputs, as many channels of
    each of its groups go.

    Args:
        model: a plain model; it is left as it was.
        shape: of one image (C, H, W).
        heads: whether heads of attention are channels, too; else attention's inputs and outputs stay.

    Returns:
        Groups of channels of which the same layers have filters, by the first of these layers.

    Raises:
        ValueError: torch.fx cannot trace the model, or it does not take such images.
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
    """All marks, after one image has gone through a copy of the model."""
    name, first = type(model).__name__, next(model.parameters())
    graph = traced(deepcopy(model))
    joined = Joined()
    try:
        with evaluation(graph):
            Marks(graph, joined, heads).run(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
    except Exception as error:  # what model code raises where images do not fit
        raise ValueError(f"{name} cannot be run on images of {tuple(shape)}: {first_line(error)}") from error
    return joined


def _units(joined: Joined, order: Mapping[str, int]) -> dict[int, Unit]:
    """The channels that can go, by their mark."""
    units: dict[int, Unit] = defaultdict(lambda: defaultdict(list))
    for name in sorted(joined.filters, key=order.__getitem__):
        for i, mark in enumerate(joined.found(joined.filters[name]).tolist()):
            if not joined.stays(mark):
                units[mark][name].append(i)
    return units


def _labels(joined: Joined, units: Iterable[int]) -> dict[int, dict[int, tuple[int, int]]]:
    """In which of a grouped convolution's groups a channel lies, and how often: by channel and place in `grouped`.

    A channel that lies in all groups alike needs no label; one that lies in some of them, and not alike, is left out.
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
    """Channels that are alike, in blocks; None where of a grouped convolution's groups some would lose more."""
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
