"""Observation of a network before it is cut: channels that depend on the image, and values of the others."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from midstate.common.errors import first_line
from midstate.compaction import counting
from midstate.sparsity import weight_layers

NUM_IMAGES = 2  # so that the batch dimension can be told from others
CLOSE = 1e-9  # relative, in double precision
_NOT_IN_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


class _Tracer(fx.Tracer):
    """Traces into no BatchNorm, convolution or linear layer, not even into other libraries' subclasses."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, _BatchNorm | _ConvNd | nn.Linear) or super().is_leaf_module(module, name)


def traced(model: nn.Module) -> fx.GraphModule:
    """Trace a model into a graph in evaluation mode, without in-place operations.

    Args:
        model: the graph takes its modules over, so give a copy.

    Raises:
        ValueError: torch.fx cannot trace the model, or the model calls an in-place method or function.
    """
    for module in model.eval().modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever model code raises for a proxy instead of a tensor
        raise ValueError(
            f"{type(model).__name__} cannot be extracted: torch.fx cannot trace it ({first_line(error)})"
        ) from error
    for node in graph.nodes:
        node.target = _NOT_IN_PLACE.get(node.target, node.target) if node.op == "call_function" else node.target
        if node.kwargs.get("inplace") is True:
            node.update_kwarg("inplace", False)
        if node.op == "call_module":
            _pass_by_position(node, model.get_submodule(node.target))
        if _works_in_place(node):
            raise ValueError(f"{type(model).__name__} cannot be extracted: {node.name} works in place")
    return with_layers(model, graph)


def _pass_by_position(node: Node, module: nn.Module) -> None:
    """Rewrite a call such as `conv(input=x)` as `conv(x)`, as all other code here expects it."""
    named = dict(node.kwargs)
    for name in list(signature(module.forward).parameters)[len(node.args) :]:
        if name not in named:
            break
        node.args = (*node.args, named.pop(name))
    node.kwargs = named


def _works_in_place(node: Node) -> bool:
    """Tell whether a node calls a method or function of torch's that works in place: their names end in `_`."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    is_operator = getattr(node.target, "__module__", "") == operator.and_.__module__  # `and_` works out of place
    return name.endswith("_") and not name.endswith("__") and not is_operator


@contextmanager
def fitting(name: str, shape: tuple[int, ...]) -> Iterator[None]:
    """Turn whatever model code raises for images that do not fit into a ValueError that names model and images."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{name} cannot be run on images of {tuple(shape)}: {first_line(error)}") from error


def with_layers(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Make a GraphModule in which layers whose weights are passed to functions stay layers, so that they are counted.

    Args:
        root: has the modules.
        graph: calls them.
    """
    module, layers = fx.GraphModule(root, graph), {layer.module for layer in weight_layers(root)}
    for name in dict.fromkeys(node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"):
        if name and (layer := root.get_submodule(name)) in layers:
            module.set_submodule(name, layer)
    return module


class _Recorder(nn.Module):
    """Runs a graph and keeps every value."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph
        self.values: dict[Node, Any] = {}

    def forward(self, images: Tensor) -> Any:
        interpreter = fx.Interpreter(self.graph, garbage_collect_values=False)
        output = interpreter.run(images)
        self.values = interpreter.env
        return output


class Observed:
    """The values of a network.

    Args:
        graph: from `traced`.
        shape: of one image (C, H, W).
    """

    def __init__(self, graph: fx.GraphModule, shape: tuple[int, ...]) -> None:
        self.graph, self.shape = graph, tuple(shape)
        recorder = _Recorder(graph).eval()
        alive = counting.alive_inputs(recorder, self.shape)  # the same dye as the count uses, so that both agree
        self.alive = {name.removeprefix("graph."): channels for name, channels in alive.items()}
        self._dyed = recorder.values
        recorder(_images(graph, self.shape))
        self.values, self.larger = recorder.values, {}
        if len(shape) == 3:  # a constant may change with the size of the images
            with suppress(Exception):  # the model refuses larger images, or memory is too small
                recorder(_images(graph, (shape[0], *(2 * size for size in shape[1:]))))
                self.larger = recorder.values
        self._dims: dict[Node, int] = {}
        for node in graph.graph.nodes:
            self._dims[node] = self._dim(node)
        self._kept = {node: self._living(node) for node in graph.graph.nodes}

    def module(self, node: Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.graph.get_submodule(node.target) if node.op == "call_module" else None

    def dim(self, node: Node) -> int:
        """The dimension of a value that holds its channels."""
        return self._dims[node]

    def kept(self, node: Node) -> Tensor | None:
        """Channels of a value that depend on the image, ascending; None if the value is not a batched tensor."""
        return self._kept[node]

    def size(self, node: Node) -> int:
        """Number of all channels of a value."""
        return self.values[node].shape[self._dims[node]]

    def constants(self, node: Node, index: Tensor) -> tuple[Tensor, bool]:
        """Some channels of a value, (1, K, ...), with 0 for those that depend on the image.

        Returns:
            The constants and whether they fit images of any size, see `collapsed`.
        """
        dim = self._dims[node]
        small, larger = (
            each[node][:1].index_fill(dim, self._kept[node], 0).index_select(dim, index) if each else None
            for each in (self.values, self.larger)
        )
        return collapsed(small, larger, dim)

    def _dim(self, node: Node) -> int:
        value = self.values.get(node)
        if isinstance(self.module(node), nn.Linear):
            return value.dim() - 1
        if isinstance(self.module(node), _ConvNd | _BatchNorm) or not isinstance(value, Tensor):
            return 1
        for other in node.all_input_nodes:
            before = self.values[other]
            if isinstance(before, Tensor) and before.dim() == value.dim():
                return self._dims[other]
        return 1

    def _living(self, node: Node) -> Tensor | None:
        value, dyed = self.values.get(node), self._dyed.get(node)
        if node.op in ("get_attr", "output") or not isinstance(value, Tensor) or value.dim() < 2:
            return None
        if len(value) != NUM_IMAGES or len(dyed) != 1:
            return None
        return dyed.isnan().movedim(self._dims[node], 0).flatten(1).any(1).nonzero().flatten()


def collapsed(constants: Tensor, larger: Tensor | None, dim: int) -> tuple[Tensor, bool]:
    """Reduce constants (1, K, ...) to one number a channel if they are the same everywhere.

    Args:
        constants: values of the channels for images of the given size.
        larger: the same for larger images; None if these were not run.
        dim: dimension of the channels.

    Returns:
        The constants, of size 1 except at `dim` if they vary along no other dimension, else as given; and whether they
        fit images of any size.
    """
    small = constants
    for other in range(1, constants.dim()):
        if other != dim:
            small = small.narrow(other, 0, 1)
    same = all(
        each.numel() == 0 or torch.allclose(each, small.expand_as(each), rtol=CLOSE, atol=CLOSE)
        for each in (constants, larger)
        if each is not None
    )
    return (small, True) if same else (constants, False)


def _images(graph: fx.GraphModule, shape: tuple[int, ...]) -> Tensor:
    first = next(graph.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(NUM_IMAGES, *shape, generator=generator, dtype=torch.float64)
    return images.to(first.device, first.dtype)
