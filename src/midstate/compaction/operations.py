"""Operations that treat every channel alone, so that they can be given fewer channels. Others are given all."""

import math
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

from midstate.compaction.observing import Observed

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.Tanh, nn.Softplus, nn.Hardsigmoid, nn.Hardswish, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout,
)  # fmt: skip
ELEMENTWISE_FUNCTIONS = (
    F.relu, torch.relu, F.relu6, F.hardtanh, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.sigmoid,
    torch.sigmoid, F.tanh, torch.tanh, F.softplus, F.hardsigmoid, F.hardswish, F.dropout, F.dropout2d,
    torch.clamp, "torchvision.ops.stochastic_depth.stochastic_depth",  # by name: not every run imports torchvision
)  # fmt: skip
ELEMENTWISE_METHODS = ("relu", "sigmoid", "tanh", "clamp", "contiguous", "clone", "detach", "float")
SPATIAL = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.Upsample,
)  # fmt: skip
SPATIAL_FUNCTIONS = (
    F.max_pool2d, torch.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate,
)  # fmt: skip
_BINARY = (
    operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul, torch.div,
)  # fmt: skip
_BINARY_METHODS = ("add", "sub", "mul", "div")


def treats_channels_alone(node: Node, seen: Observed) -> bool:
    """Tell whether a node reads one tensor and treats each of its channels independently of the others."""
    if not node.args or not isinstance(node.args[0], Node) or seen.kept(node.args[0]) is None:
        return False
    source, module = node.args[0], seen.module(node)
    before, dim = seen.values[source], seen.dim(source)
    if sum(isinstance(seen.values.get(other), Tensor) for other in node.all_input_nodes) > 1:
        return False
    if one_of(node, module, ELEMENTWISE, ELEMENTWISE_FUNCTIONS, ELEMENTWISE_METHODS):
        return True
    if one_of(node, module, SPATIAL, SPATIAL_FUNCTIONS, ()) or _is_spatial_pad(node):
        return before.dim() == 4 and dim == 1
    if _is_slice_of_others(node, dim) or _is_mean_of_others(node, before.dim(), dim):
        return True
    return _is_size_of_others(node, before.dim(), dim)


def is_binary(node: Node) -> bool:
    """Tell whether a node combines tensors element by element."""
    return one_of(node, None, (), _BINARY, _BINARY_METHODS)


def adds_channels(node: Node, seen: Observed) -> bool:
    """Tell whether a node only adds channels of zeros to what it reads, as option A's shortcuts do."""
    if node.op != "call_function" or node.target is not F.pad or len(node.args) != 2 or node.kwargs:
        return False
    source, padding = node.args
    if len(padding) != 6 or any(padding[:4]) or not all(isinstance(size, int) and size >= 0 for size in padding):
        return False
    return seen.kept(source) is not None and seen.dim(source) == 1 and seen.values[source].dim() == 4


def flattened(node: Node, seen: Observed) -> Tensor | None:
    """Features kept when a node flattens (N, C, ...) to (N, F) and some channels are kept.

    Returns:
        Indices of the kept features among the F; None where the node does something else.
    """
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or seen.kept(source) is None or seen.dim(source) != 1:
        return None
    before, after = seen.values[source], seen.values[node]
    if not isinstance(after, Tensor) or after.shape != (len(before), math.prod(before.shape[1:])):
        return None
    module, options = seen.module(node), [*node.args[1:], *node.kwargs.values()]
    by_module = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
    by_name = node.target in (torch.flatten, "flatten") and options in ([1], [1, -1])
    by_shape = node.op == "call_method" and node.target in ("view", "reshape") and options[-1:] == [-1]
    by_shape = by_shape or (node.target is torch.reshape and options[0][-1:] in ((-1,), [-1]))
    if not (by_module or by_name or by_shape):
        return None
    positions = math.prod(before.shape[2:])
    offsets = torch.arange(positions, device=before.device)
    return (seen.kept(source)[:, None] * positions + offsets).flatten()


def one_of(node: Node, module: nn.Module | None, kinds: tuple, functions: tuple, methods: tuple) -> bool:
    """Tell whether a node is a module of one of the kinds, or one of the functions (also by full name) or methods."""
    if node.op == "call_module":
        return type(module) in kinds
    if node.op == "call_function":
        return node.target in functions or _full_name(node.target) in functions
    return node.target in methods


def _full_name(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', '')}"


def _is_spatial_pad(node: Node) -> bool:
    return node.op == "call_function" and node.target is F.pad and len(node.args) > 1 and len(node.args[1]) <= 4


def _is_slice_of_others(node: Node, dim: int) -> bool:
    if node.op != "call_function" or node.target is not operator.getitem or not isinstance(node.args[1], tuple):
        return False
    index = node.args[1]
    whole = [i >= len(index) or index[i] == slice(None) for i in (0, dim)]
    return all(whole) and all(isinstance(each, slice) for each in index)


def _is_mean_of_others(node: Node, num_dims: int, dim: int) -> bool:
    if node.target not in (torch.mean, "mean", torch.amax, "amax") or node.op == "call_module":
        return False
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, list | tuple) or not all(isinstance(each, int) for each in dims):
        return False
    return all(each % num_dims > dim for each in dims)


def _is_size_of_others(node: Node, num_dims: int, dim: int) -> bool:
    """Tell whether a node asks for sizes, and only for those that are the same with fewer channels."""
    if node.op == "call_method" and node.target == "size" and len(node.args) > 1:
        return node.args[1] % num_dims != dim
    whole = (node.op == "call_method" and node.target == "size") or (
        node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
    )
    return whole and all(
        user.target is operator.getitem and isinstance(user.args[1], int) and 0 <= user.args[1] != dim
        for user in node.users
    )
