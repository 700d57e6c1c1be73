"""Channels that still depend on the image: NaN runs through the model as a dye, and channels it reaches are alive."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from midstate.common.uncompiled import uncompiled
from midstate.compaction.parts import Constants, Spread
from midstate.sparsity import Layer, weight_layers
from midstate.sparsity.observe import evaluation
from midstate.sparsity.tensors import input_of

IMAGES_AT_ONCE = 32
aten = torch.ops.aten
# Common operations that give NaN for NaN anyway; their results need no check.
_CARRY_IT = (
    aten.add, aten.add_, aten.sub, aten.sub_, aten.mul, aten.mul_, aten.div, aten.div_, aten.neg, aten.exp, aten.clone,
    aten.relu, aten.relu_, aten.hardtanh, aten.hardtanh_, aten.clamp, aten.gelu, aten.silu, aten.silu_, aten.sigmoid,
    aten.tanh, aten.hardsigmoid, aten.hardsigmoid_, aten.hardswish, aten.hardswish_, aten.leaky_relu, aten.sqrt,
)  # fmt: skip
Lost = dict[tuple[str, int], Tensor]  # by name of a layer or BatchNorm, and index of its call


@torch.no_grad()
def alive_inputs(model: nn.Module, shape: tuple[int, ...], lost: Lost | None = None) -> dict[str, Tensor]:
    """Find the input channels of every layer and BatchNorm that still depend on the image.

    A channel is dead if its filter has no non-zero weight that reads a living channel; bias and BatchNorm then make it
    a constant, which can be folded into the next layer. A sum (a residual join) is dead only where all its terms are.
    A channel that the dye would not reach even with no weight zero counts as alive, because pruning is not the cause:
    a table of positions does not depend on the image, and some operations hide the dye.

    Args:
        model: a plain model, masks folded in.
        shape: of one image (C, H, W).
        lost: from `lost_inputs`, which does not depend on the weights that are zero; None: it is computed.

    Returns:
        Bool vectors (C,) by name of the layer or BatchNorm. nn.MultiheadAttention's projections and layers whose
        forward is not called are left out; all their inputs count as alive.
    """
    lost = lost_inputs(model, shape) if lost is None else lost
    traced = _trace(model, shape, 1, lambda layer, inputs: reached(layer, inputs), lost)
    return {name: alive[0] for name, alive in traced.items()}


@torch.no_grad()
def fed_by(model: nn.Module, layers: list[Layer], shape: tuple[int, ...]) -> dict[str, str]:
    """Find which layers read one of `layers` and nothing else: {reader: source}, both by name.

    Args:
        model: a plain model.
        layers: the sources.
        shape: of one image (C, H, W).
    """
    names: list[str] = []  # sources of the current batch
    every = {layer.name for layer in layers}

    def all_but_one(layer: Layer, inputs: Tensor) -> Tensor:
        """In the i-th image of the batch, the i-th source is dead and everything else alive."""
        if layer.name not in every and layer.is_conv and layer.module.groups > 1:
            return reached(layer, inputs)  # a grouped convolution passes the dye on
        alive = torch.ones(len(names), layer.weight.shape[0], dtype=torch.bool, device=inputs.device)
        if layer.name in names:
            alive[names.index(layer.name)] = False
        return alive

    sources: dict[str, str] = {}
    lost = lost_inputs(model, shape)
    for start in range(0, len(layers), IMAGES_AT_ONCE):
        names = [layer.name for layer in layers[start : start + IMAGES_AT_ONCE]]
        for reader, alive in _trace(model, shape, len(names), all_but_one, lost).items():
            if dead := (~alive.any(1)).nonzero().flatten().tolist():
                sources[reader] = names[dead[0]]
    return sources


def reached(layer: Layer, inputs: Tensor, reads: Tensor | None = None) -> Tensor:
    """Which outputs (N, O) the living inputs (N, C) reach; `reads` as from `_reads`; None: the layer's."""
    reads = _reads(layer) if reads is None else reads
    grouped = inputs.view(len(inputs), reads.shape[0], 1, -1)
    return (grouped & reads).any(3).flatten(1)


def _reads(layer: Layer) -> Tensor:
    """Which input channels of its group each output has a non-zero weight for: (groups, O/groups, C/groups)."""
    connected = (layer.weight != 0).flatten(2).any(2) if layer.weight.dim() > 2 else layer.weight != 0
    groups = layer.module.groups if layer.is_conv else 1
    return connected.view(groups, -1, connected.shape[1])


@torch.no_grad()
def lost_inputs(model: nn.Module, shape: tuple[int, ...]) -> Lost:
    """Find the inputs of each call that the dye does not reach even if no weight is zero."""
    lost: Lost = {}
    _trace(model, shape, 1, lambda layer, inputs: reached(layer, inputs, torch.ones_like(_reads(layer))), lost, True)
    return lost


def _trace(
    model: nn.Module,
    shape: tuple[int, ...],
    num_images: int,
    alive_outputs: Callable[[Layer, Tensor], Tensor],
    lost: Lost,
    is_first: bool = False,
) -> dict[str, Tensor]:
    """Send the dye through the model.

    Every layer's output is replaced by NaN in its living channels and 0 in its dead ones; the operations
    between layers (norms, activations, sums, pooling, padding) carry the dye by themselves.

    Args:
        model: a plain model.
        shape: of one image (C, H, W).
        num_images: size of the batch.
        alive_outputs: function from a layer and its living inputs (N, C) to its living outputs (N, O).
        lost: inputs that are alive although the dye does not reach them.
        is_first: whether this pass fills `lost`.

    Returns:
        Living inputs (N, C) by name of the layer or BatchNorm.
    """
    alive_by_name: dict[str, Tensor] = {}
    first = next(model.parameters())
    images = torch.full((num_images, *shape), torch.nan, device=first.device, dtype=first.dtype)
    carrier, calls = _Carrier(images), Counter()

    def note(name: str, alive: Tensor) -> Tensor:
        """Store the living channels of a call; return its lost ones."""
        call = (name, calls[name])
        calls[name] += 1
        if is_first:
            lost[call] = ~alive
        missing = lost.get(call, torch.zeros_like(alive[:1]))
        alive = alive | missing
        alive_by_name[name] = alive | alive_by_name[name] if name in alive_by_name else alive
        return missing

    def dye(layer: Layer, inputs: tuple, named: dict[str, Any], output: Tensor) -> Tensor | None:
        if isinstance(layer.module, nn.MultiheadAttention):
            return None
        with carrier.resting():
            read = input_of(layer.module, inputs, named)
            alive = _living(read, layer.is_conv)
            missing, depends = note(layer.name, alive), carrier.depends(read)
            alive = alive_outputs(layer, alive | missing if depends else alive)
            output = output.movedim(1, -1) if layer.is_conv else output
            alive = alive.view(len(alive), *[1] * (output.dim() - 2), -1).expand(output.shape)
            dyed = torch.zeros_like(output).masked_fill(alive, torch.nan)
            dyed = dyed.movedim(-1, 1).contiguous() if layer.is_conv else dyed  # models may take views of it
            carrier.made(dyed, depends)
            return dyed

    def note_norm(name: str, *given: Any) -> None:
        with carrier.resting():
            note(name, _living(input_of(*given), True))

    def dye_constants(part: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        """Dye the constants of an extracted network, so that they are not lost: pruning made them."""
        with carrier.resting():
            dyed = torch.full_like(output, torch.nan)
            carrier.made(dyed, True)
            return dyed

    hooks = [
        layer.module.register_forward_hook(lambda _, *given, layer=layer: dye(layer, *given), with_kwargs=True)
        for layer in weight_layers(model)
    ]
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(partial(note_norm, name), with_kwargs=True))
        elif is_first and isinstance(module, Constants | Spread):
            hooks.append(module.register_forward_hook(dye_constants))
    try:
        with evaluation(model), carrier:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return alive_by_name


def _living(features: Tensor, is_conv: bool) -> Tensor:
    by_channel = features.isnan().movedim(1 if is_conv else -1, 1)
    return by_channel.flatten(2).any(2) if by_channel.dim() > 2 else by_channel


class _Carrier(TorchDispatchMode):
    """Dyes the results of operations that give a number for NaN, such as comparisons.

    The result of an elementwise operation is dyed wherever an input is. Booleans and integers cannot be NaN: masks of
    their dyed elements are kept in `_beside`, by memory and then by offset, shape and stride.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self._beside: dict[int, dict[tuple, Tensor]] = {}
        self._depending = {_memory(images)}
        self._rests = False

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Leave operations as they are within the context."""
        self._rests = True
        try:
            yield
        finally:
            self._rests = False

    def depends(self, tensor: Tensor) -> bool:
        """Tell whether anything in a tensor's memory was computed from images."""
        return _memory(tensor) in self._depending

    def made(self, tensor: Tensor, depends: bool) -> None:
        """Note whether a new tensor was computed from images."""
        memory = _memory(tensor)
        self._beside.pop(memory, None)
        (self._depending.add if depends else self._depending.discard)(memory)

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        if self._rests:
            return func(*args, **kwargs)
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        dye = self._dye(func, args, kwargs, inputs)  # before an in-place operation overwrites it
        out = func(*args, **kwargs)
        before, depends = {_memory(each) for each in inputs}, any(map(self.depends, inputs))
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and (depends or _memory(each) not in before):
                memory = _memory(each)
                if memory in before:
                    self._depending.add(memory)
                else:
                    self.made(each, depends)
        if dye is not None and isinstance(out, Tensor):
            if out.is_floating_point() or out.is_complex():
                out.masked_fill_(dye, torch.nan)
            else:
                self._beside.setdefault(_memory(out), {})[_place(out)] = dye.expand(out.shape)
        return out

    def _dye(self, func: Callable, args: tuple, kwargs: dict, inputs: list[Tensor]) -> Tensor | None:
        """Mask of the elements of the output to dye; None: the output stays as it is."""
        kind = func._overloadpacket
        if kind in _CARRY_IT and all(map(_can_be_dyed, inputs)):
            return None
        if kind is aten.where and len(args) == 3:
            chosen, other = (self._of(each) if isinstance(each, Tensor) else None for each in args[1:])
            picked = [None if chosen is None else args[0] & chosen, None if other is None else ~args[0] & other]
            return _any_of([self._of(args[0]), *picked])
        if kind in (aten.masked_fill, aten.masked_fill_):
            own = self._of(args[0])
            return _any_of([self._of(args[1]), None if own is None else own & ~args[1]])
        if torch.Tag.pointwise in func.tags:
            return _any_of([self._of(each) for each in inputs])
        if len(inputs) == 1 and inputs[0] is args[0] and not _can_be_dyed(inputs[0]):
            beside = self._of(inputs[0])
            try:  # booleans or integers that are moved, cast or added up
                return None if beside is None else func(beside, *args[1:], **kwargs) != 0
            except (RuntimeError, TypeError):
                return None
        return None

    def _of(self, tensor: Tensor) -> Tensor | None:
        """Mask of the dyed elements of a tensor; None: none."""
        if _can_be_dyed(tensor):
            return tensor.isnan()
        return self._beside.get(_memory(tensor), {}).get(_place(tensor))


uncompiled(_Carrier, "__torch_dispatch__")


def _can_be_dyed(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _any_of(dyes: list[Tensor | None]) -> Tensor | None:
    found = [dye for dye in dyes if dye is not None]
    return reduce(torch.logical_or, found) if found else None


def _place(tensor: Tensor) -> tuple:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
