"""Marks that tell which filter has made each value of a network; filters that meet in one channel are joined."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only

from midstate.compaction.operations import (
    ELEMENTWISE,
    ELEMENTWISE_FUNCTIONS,
    ELEMENTWISE_METHODS,
    SPATIAL,
    SPATIAL_FUNCTIONS,
    is_binary,
    one_of,
)
from midstate.sparsity import Layer, weight_layers
from midstate.sparsity.tensors import is_depthwise

CONSTANT, STAYS = 0, 1  # marks of constants, and of channels that cannot be removed
# Operations that only rearrange values: they are applied to the marks as well.
_MOVES = (nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle)
_MOVING_FUNCTIONS = (
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.movedim, torch.chunk, torch.split, torch.unbind,
    torch.cat, torch.concat, torch.stack, torch.squeeze, torch.unsqueeze, torch.roll, torch.flip, operator.getitem,
    F.pixel_shuffle, torch.channel_shuffle,
)  # fmt: skip
_MOVING_METHODS = (
    "view", "reshape", "permute", "transpose", "movedim", "flatten", "unflatten", "chunk", "split", "unbind", "squeeze",
    "unsqueeze", "expand", "roll", "flip",
)  # fmt: skip
_MEANS = (torch.mean, "mean", torch.amax, "amax", torch.sum, "sum")
_PRODUCTS = (torch.matmul, operator.matmul, "matmul", torch.bmm, "bmm")
_SOFTMAXES = (torch.softmax, F.softmax, "softmax")


class Joined:
    """Sets of joined marks (a union-find structure); each set stands for one channel.

    `filters` has the marks of each layer's filters, by name; `grouped` has, for the inputs and the outputs of each
    grouped convolution that is not depthwise, the marks (C,) and the number of groups.
    """

    def __init__(self) -> None:
        self._parents = [CONSTANT, STAYS]
        self.filters: dict[str, Tensor] = {}
        self.grouped: list[tuple[Tensor, int]] = []

    def new(self, name: str, num: int, device: torch.device) -> Tensor:
        """Marks of a layer's filters, the same at every call of the layer."""
        if name not in self.filters:
            first = len(self._parents)
            self._parents += range(first, first + num)
            self.filters[name] = torch.arange(first, first + num, device=device)
        return self.filters[name]

    def found(self, marks: Tensor) -> Tensor:
        """The root of each mark (N,): equal for joined marks."""
        return torch.tensor([self._root(mark) for mark in marks.tolist()], device=marks.device)

    def stays(self, mark: int) -> bool:
        """Tell whether a mark belongs to a channel that cannot be removed, or to a constant."""
        return mark == CONSTANT or self._root(mark) == self._root(STAYS)

    def join(self, one: Tensor, other: Tensor) -> None:
        """Join marks pair by pair; constants join nothing."""
        one, other = _narrowed(one, other)
        meet = (one != other) & (one != CONSTANT) & (other != CONSTANT)
        size = len(self._parents)
        for pair in (one[meet] * size + other[meet]).unique().tolist():
            self._parents[self._root(pair // size)] = self._root(pair % size)

    def keep(self, marks: Tensor) -> None:
        """Declare that channels cannot be removed."""
        self.join(marks, torch.tensor(STAYS, device=marks.device).expand(marks.shape))

    def by_channel(self, marks: Tensor, dim: int) -> Tensor:
        """One mark a channel, (C,); all marks within a channel are joined."""
        (marks,) = _narrowed(marks, but=dim)
        flat = marks.movedim(dim, 0).flatten(1) if marks.dim() > 1 else marks[:, None]
        largest = flat.amax(1, keepdim=True)
        self.join(flat, largest.expand_as(flat))
        return largest[:, 0]

    def _root(self, mark: int) -> int:
        while self._parents[mark] != mark:
            self._parents[mark] = self._parents[self._parents[mark]]
            mark = self._parents[mark]
        return mark


class Marks(fx.Interpreter):
    """Runs a graph, and finds the marks of all its values.

    Args:
        graph: from `observing.traced`.
        joined: filled by the run.
        heads: whether attention joins the channels of a head; else the channels that it reads cannot be removed.
    """

    def __init__(self, graph: fx.GraphModule, joined: Joined, heads: bool) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.joined, self.heads = joined, heads
        self.marks: dict[Node, Any] = {}  # structured as the values; None for values without tensors
        self.layers = {layer.name: layer for layer in weight_layers(graph) if layer.tensor_name == "weight"}

    def run_node(self, node: Node) -> Any:
        """Run one node."""
        value = super().run_node(node)
        self.marks[node] = self._of(node, value)
        return value

    def _of(self, node: Node, value: Any) -> Any:
        if node.op in ("placeholder", "get_attr"):
            return tree_map_only(
                Tensor, lambda each: _filled(each, STAYS if node.op == "placeholder" else CONSTANT), value
            )
        read = [each for other in node.all_input_nodes for each in _tensors(self.marks[other])]
        if node.op == "output":
            for each in read:
                self.joined.keep(each)
            return None
        if not _tensors(value):
            return None
        if not any(bool(_narrowed(each)[0].any()) for each in read):
            return tree_map_only(Tensor, lambda each: _filled(each, CONSTANT), value)
        made = self._followed(node, value)
        if made is None:
            for each in read:
                self.joined.keep(each)
            made = tree_map_only(Tensor, lambda each: _filled(each, STAYS), value)
        return made

    def _followed(self, node: Node, value: Any) -> Any:
        """Marks of a node's output; None if the node is not known to treat channels one by one."""
        module = self.submodules.get(node.target) if node.op == "call_module" else None
        first = self.marks.get(node.args[0]) if node.args and isinstance(node.args[0], Node) else None
        if isinstance(value, Tensor) and isinstance(first, Tensor):
            if node.target in self.layers and module is self.layers[node.target].module:
                return self._layer(self.layers[node.target], first, value)
            if isinstance(module, _BatchNorm):
                return first
            if one_of(node, module, ELEMENTWISE, ELEMENTWISE_FUNCTIONS, (*ELEMENTWISE_METHODS, "to", "type_as")):
                return first
            if one_of(node, module, SPATIAL, SPATIAL_FUNCTIONS, ()) and value.dim() == 4:
                return _spread(self.joined.by_channel(first, 1), value, 1)
            if node.target in _MEANS and node.op != "call_module":
                return self._mean(node, first, value)
        if is_binary(node):
            return self._binary(node, value)
        if node.target is F.pad and node.op == "call_function":
            return F.pad(first, node.args[1])
        if one_of(node, module, _MOVES, _MOVING_FUNCTIONS, _MOVING_METHODS):
            return self._moved(node, module)
        return self._attention(node, value) if self.heads else None

    def _layer(self, layer: Layer, inputs: Tensor, value: Tensor) -> Tensor:
        dim = 1 if layer.is_conv else value.dim() - 1
        read = self.joined.by_channel(inputs, dim)
        own = self.joined.new(layer.name, layer.weight.shape[0], inputs.device)
        groups = layer.module.groups if layer.is_conv else 1
        if is_depthwise(layer):
            self.joined.join(read.repeat_interleave(len(own) // groups), own)
        elif groups > 1:
            self.joined.grouped += [(read, groups), (own, groups)]
        return _spread(own, value, dim)

    def _mean(self, node: Node, marks: Tensor, value: Tensor) -> Tensor | None:
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if dims is None or isinstance(dims, Node):
            return None
        largest = marks.amax(dims, keepdim=True)
        self.joined.join(marks, largest.expand_as(marks))
        return largest.reshape(value.shape)

    def _binary(self, node: Node, value: Tensor) -> Tensor:
        """A sum, product and so on."""
        terms = [self.marks.get(each) for each in node.args if isinstance(each, Node)]
        terms = [each.expand(value.shape) for each in terms if isinstance(each, Tensor)]
        if len(terms) == 2:
            self.joined.join(*terms)
            one, other = _narrowed(*terms)
            return torch.where(one == CONSTANT, other, one).expand(value.shape)
        return terms[0]

    def _moved(self, node: Node, module: nn.Module | None) -> Any:
        def of(other: Node) -> Any:
            return self.env[other] if self.marks[other] is None else self.marks[other]

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), of)
        if module is not None:
            return module(*args, **kwargs)
        if node.target in (torch.cat, torch.concat):
            return _joined_along(*args, **kwargs)
        if node.op == "call_method":  # marks may have other strides than values: `view` could fail
            return getattr(args[0], node.target.replace("view", "reshape"))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)

    def _attention(self, node: Node, value: Any) -> Tensor | None:
        """Marks (N, H, ...) of products of features and of softmax, joined within each head; None for other nodes."""
        for other in node.all_input_nodes:
            if value is self.env[other]:  # returned unchanged, as where an absent mask is added
                return self.marks[other]
        marks = [self.marks[each] for each in node.args if isinstance(each, Node)]
        if not isinstance(value, Tensor) or value.dim() != 4 or any(m is None or m.dim() != 4 for m in marks):
            return None
        if node.target in _SOFTMAXES or node.target is F.scaled_dot_product_attention or node.target in _PRODUCTS:
            by_head = [self.joined.by_channel(each, 1) for each in marks]
            for each in by_head[1:]:
                self.joined.join(by_head[0], each)
            return _spread(by_head[0], value, 1)
        return None


def _joined_along(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat` that keeps expanded dimensions expanded."""
    shape = list(tensors[0].shape)
    shape[dim] = sum(each.shape[dim] for each in tensors)
    return torch.cat(_narrowed(*tensors, but=dim % len(shape)), dim).expand(shape)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [each for part in value for each in _tensors(part)] if isinstance(value, list | tuple) else []


def _narrowed(*marks: Tensor, but: int | None = None) -> tuple[Tensor, ...]:
    """Cut to size 1 every dimension, except `but`, along which all marks are only repeated (stride 0), to save work."""
    for dim in range(marks[0].dim()):
        if dim != but and all(each.shape[dim] > 1 and each.stride(dim) == 0 for each in marks):
            marks = tuple(each.narrow(dim, 0, 1) for each in marks)
    return marks


def _filled(value: Tensor, mark: int) -> Tensor:
    return torch.tensor(mark, device=value.device).expand(value.shape)


def _spread(marks: Tensor, value: Tensor, dim: int) -> Tensor:
    """Expand one mark a channel, (C,), to all positions of a value."""
    return marks.view(-1, *[1] * (value.dim() - dim - 1)).expand(value.shape)
