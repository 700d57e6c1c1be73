"""How often an image uses each weight: counted in the matrix products and convolutions that the weight enters."""

import math
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from midstate.common.uncompiled import uncompiled
from midstate.sparsity import weight_layers
from midstate.sparsity.observe import evaluation
from midstate.sparsity.tensors import layer_name

aten = torch.ops.aten
_CONVOLUTIONS = (aten.convolution, aten._convolution, aten.cudnn_convolution, aten._slow_conv2d_forward)
# Positions of the arguments that are multiplied with each other, without those that are added.
_OPERANDS = {aten.mm: (0, 1), aten.bmm: (0, 1), aten.addmm: (1, 2), aten.baddbmm: (1, 2)} | dict.fromkeys(
    _CONVOLUTIONS, (0, 1)
)
# Products in which no weight is looked for. These and the ones above are those that torch.utils.flop_counter
# counts; importing that module would import Triton.
_OF_FEATURES = {
    *("_scaled_mm", "convolution_overrideable", "_flash_attention_forward", "_efficient_attention_forward"),
    *(f"_scaled_dot_product_{kind}_attention" for kind in ("efficient", "flash", "cudnn")),
}
# Tensors that a weight is computed from (by a parametrization or torch.nn.utils' older functions) get its name.
_COMPUTED = re.compile(r"(?:parametrizations\.(\w+)\..*|(\w+)_(?:orig|g|v))$")


@torch.no_grad()
def weight_uses(model: nn.Module, sample: Tensor) -> dict[str, int]:
    """Count how often one image uses each weight: output positions of a convolution, tokens of a linear layer.

    The products themselves are counted, as torch's FlopCounterMode does, so that it does not matter which module or
    function uses the weight. For a weight whose parts are used unequally often the count is the mean, rounded down.

    Args:
        model: any model; one forward pass is made in evaluation mode.
        sample: a batch (N, C, H, W).

    Returns:
        Uses per image: of the layers, by their names in `weight_layers`, and of every other tensor that is multiplied
        with features, by its name in `other_tensors`. MACs of a layer = weights * uses.
    """
    tensors = _tensors(model)
    layers = {layer.name: layer.weight.numel() for layer in weight_layers(model)}
    products = _Products(tensors, layers, sample)
    with evaluation(model), _in_the_open(model), products.following(model), products:
        model(sample)
    sizes = {name: tensor.numel() for name, tensor in tensors} | layers
    return {name: macs // (sizes[name] * len(sample)) for name, macs in products.macs.items()}


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Every tensor that may be a weight, by the name of its layer; tied ones under each of their names."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return [
        (layer_name(_COMPUTED.sub(lambda found: found[1] or found[2], name)), tensor)
        for name, tensor in named
        if tensor.dim() > 1 and tensor.is_floating_point() and tensor.numel()
    ]


@contextmanager
def _in_the_open(model: nn.Module) -> Iterator[None]:
    """Disable the fused attention and recurrent kernels, in which no product is seen."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Products(TorchDispatchMode):
    """Counts the multiply-accumulates of each weight.

    Tensors are known by the address of their memory. A tensor computed from one weight alone (a view, a copy, a masked
    or standardised weight) counts as that weight; a tensor computed from images or by a product is a feature.
    """

    def __init__(self, tensors: list[tuple[str, Tensor]], layers: Collection[str], sample: Tensor) -> None:
        super().__init__()
        self.macs: dict[str, int] = {}
        self.layers = layers
        self.parts: dict[int, dict[tuple[int, int], list[str]]] = {}  # by memory: (start, end) and names of its weights
        for name, tensor in tensors:
            span = (tensor.storage_offset(), tensor.storage_offset() + tensor.numel())
            names = self.parts.setdefault(_memory(tensor), {}).setdefault(span, [])
            names += [name] if name not in names else []
        self.origins: dict[int, str] = {}  # by memory: the weight that a tensor or product was made with
        self.features = {_memory(sample)}
        self.entered: list[str] = []  # layers that share a tensor, in the order of their calls

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Within the context, note the calls of layers that share a tensor."""
        shared = {name for spans in self.parts.values() for names in spans.values() if len(names) > 1 for name in names}
        hooks = [
            module.register_forward_pre_hook(lambda _, inputs, name=name: self.entered.append(name))
            for name, module in model.named_modules()
            if name in shared
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs, kind = kwargs or {}, func._overloadpacket
        if not _is_product(kind) and (made := self._in_parts(func, args, kwargs)) is not NotImplemented:
            return made
        out = func(*args, **kwargs)
        name = None
        if kind in _OPERANDS:
            name = self._multiplied([args[i] for i in _OPERANDS[kind]], kind in _CONVOLUTIONS)
            if name is not None:
                self.macs[name] = self.macs.get(name, 0) + _macs(kind, args, out)
        self._mark(out, [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)], kind, name)
        return out

    def _in_parts(self, func: Callable, args: tuple, kwargs: dict) -> object:
        """Result of a composite operation, run part by part under this mode; NotImplemented for others."""
        with self:
            return func.decompose(*args, **kwargs)

    def _multiplied(self, operands: list[Tensor], is_convolution: bool) -> str | None:
        """The weight among two operands; None where both are features or both weights."""
        names = [self._weight(each) for each in operands]
        mixed = self.origins.get(_memory(operands[1]))  # the weight that a kernel was mixed from, for each image
        if is_convolution and names[1] is None and mixed not in self.layers:
            names[1] = mixed
        return self._one_of(names)

    def _weight(self, tensor: Tensor) -> str | None:
        memory, offset = _memory(tensor), tensor.storage_offset()
        for (start, end), names in self.parts.get(memory, {}).items():
            if start <= offset < end:
                own = [name for name in names if name in self.layers] or names
                return next((name for name in reversed(self.entered) if name in own), own[0])
        return None if memory in self.features else self.origins.get(memory)

    def _one_of(self, names: list[str | None]) -> str | None:
        """The only weight, looked for among layers first; None where there is none, or several."""
        found = {name for name in names if name is not None}
        found = found & set(self.layers) or found
        return found.pop() if len(found) == 1 else None

    def _mark(self, out: object, inputs: list[Tensor], kind: Any, name: str | None) -> None:
        before = {_memory(each) for each in inputs}
        is_feature = _is_product(kind) or bool(before & self.features)
        origin = name if _is_product(kind) else self._one_of([self._weight(each) for each in inputs])
        for each in tree_leaves(out):
            if not isinstance(each, Tensor) or (memory := _memory(each)) in self.parts:
                continue
            if is_feature:
                self.features.add(memory)
            if memory in before:  # a view, or changed in place
                continue
            self.origins.pop(memory, None)
            if not is_feature:
                self.features.discard(memory)
            if origin is not None:
                self.origins[memory] = origin


uncompiled(_Products, "__torch_dispatch__")


def _is_product(kind: Any) -> bool:
    return kind in _OPERANDS or kind.__name__ in _OF_FEATURES


def _macs(kind: Any, args: tuple, out: Tensor) -> int:
    """Multiply-accumulates of a product with a weight."""
    if kind not in _CONVOLUTIONS:
        return out.numel() * args[_OPERANDS[kind][0]].shape[-1]
    transposed = kind in (aten.convolution, aten._convolution) and args[6]
    return len(args[0]) * math.prod((args[0] if transposed else out).shape[2:]) * args[1].numel()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
