"""Channels of a network that may change places, with the filters that make them and the modules that read them."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from midstate.compaction.joining import CONSTANT, Joined, Marks
from midstate.compaction.observing import fitting, traced
from midstate.sparsity import Layer
from midstate.sparsity.observe import evaluation
from midstate.sparsity.tensors import is_depthwise


@dataclass(frozen=True)
class Exchangeable:
    """Positions of k channels that may change places with each other: (k, positions of each), by name of a module.

    `filters` are positions among a layer's outputs, `reads` among its inputs (counted over all groups of a
    convolution), `norms` among the channels of a BatchNorm.
    """

    filters: Mapping[str, Tensor]
    reads: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.filters.values())))


@torch.no_grad()
def exchangeable_channels(model: nn.Module, shape: tuple[int, ...]) -> list[Exchangeable]:
    """Find all channels that may change places: the same layers make them, and the same layers read them alike.

    Within a grouped convolution's inputs and outputs, channels stay in their group. Channels of the model's input and
    output, channels combined with a constant tensor (a factor for each channel, an embedding of positions), and
    channels that an operation does not treat one by one stay where they are.

    Args:
        model: a plain model; it is left as it was.
        shape: of one image (C, H, W).

    Returns:
        Groups of two channels or more, sorted by the first layer that makes them.

    Raises:
        ValueError: torch.fx cannot trace the model, or the model does not take such images.
    """
    name, first = type(model).__name__, next(model.parameters())
    graph = traced(deepcopy(model))
    readers = _Readers(graph)
    with fitting(name, shape), evaluation(graph):
        readers.run(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
    readers.keep_tied()
    return _alike(readers)


class _Readers(Marks):
    """Marks of all values, and of the inputs of each layer and BatchNorm."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, Joined(), heads=False)
        self.reads: dict[str, Tensor] = {}
        self.norms: dict[str, Tensor] = {}

    def keep_tied(self) -> None:
        """Fix the places of the channels of layers that share a weight, or whose weight is computed."""
        own = {id(layer.weight): name for name, layer in self.layers.items()}
        ids = Counter(id(layer.weight) for layer in self.layers.values())
        for name, layer in self.layers.items():
            plain = isinstance(layer.module._parameters.get("weight"), nn.Parameter)
            if not plain or ids[id(layer.weight)] > 1 or own[id(layer.weight)] != name:
                for marks in (self.reads.get(name), self.joined.filters.get(name)):
                    if marks is not None:
                        self.joined.keep(marks)

    def _followed(self, node: Node, value: Any) -> Any:
        module = self.submodules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, _BatchNorm):
            self._note(self.norms, node.target, self.joined.by_channel(self.marks[node.args[0]], 1))
        return super()._followed(node, value)

    def _layer(self, layer: Layer, inputs: Tensor, value: Tensor) -> Tensor:
        dim = 1 if layer.is_conv else value.dim() - 1
        self._note(self.reads, layer.name, self.joined.by_channel(inputs, dim))
        return super()._layer(layer, inputs, value)

    def _binary(self, node: Node, value: Tensor) -> Tensor:
        made = super()._binary(node, value)
        terms = [each for each in node.args if isinstance(each, Node) and isinstance(self.env[each], Tensor)]
        if any(self.env[each].numel() > 1 and bool((self.marks[each] == CONSTANT).all()) for each in terms):
            self.joined.keep(made)  # the constant may differ from channel to channel
        return made

    def _note(self, noted: dict[str, Tensor], name: str, marks: Tensor) -> None:
        """Note the marks that a module reads; marks that it reads at one place in several calls are joined."""
        if name in noted:
            self.joined.join(noted[name], marks)
        noted[name] = marks


def _alike(readers: _Readers) -> list[Exchangeable]:
    """Groups of channels that lie in the same modules, and in the same group of each grouped convolution."""
    joined, kinds = readers.joined, (readers.joined.filters, readers.reads, readers.norms)
    places: dict[int, dict[tuple[int, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for kind, noted in enumerate(kinds):
        for name, marks in noted.items():
            for place, mark in enumerate(joined.found(marks).tolist()):
                if not joined.stays(mark):
                    places[mark][kind, name].append(place)
    groups: dict[tuple, list[int]] = defaultdict(list)
    for mark, held in places.items():
        if any(kind == 0 for kind, _ in held):
            key = tuple((each, len(where), _blocks(readers, each, where)) for each, where in held.items())
            groups[key].append(mark)
    order = {name: i for i, name in enumerate(readers.layers)}
    found = [_group([places[mark] for mark in marks]) for marks in groups.values() if len(marks) > 1]
    return sorted(found, key=lambda each: min(order[name] for name in each.filters))


def _blocks(readers: _Readers, held: tuple[int, str], where: list[int]) -> tuple[int, ...]:
    """The groups of a grouped convolution in which places lie; () for all other modules."""
    kind, name = held
    layer = readers.layers.get(name) if kind < 2 else None
    if layer is None or not layer.is_conv or layer.module.groups == 1 or is_depthwise(layer):
        return ()
    size = len((readers.joined.filters if kind == 0 else readers.reads)[name]) // layer.module.groups
    return tuple(place // size for place in where)


def _group(channels: list[dict[tuple[int, str], list[int]]]) -> Exchangeable:
    by_kind: list[dict[str, Tensor]] = [{}, {}, {}]
    for kind, name in channels[0]:
        by_kind[kind][name] = torch.tensor([each[kind, name] for each in channels])
    return Exchangeable(*by_kind)
