"""Quantisers on the layers of a model: attach them, set their bits, fit their values, and fold them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from midstate.quantization.allocation import Gates
from midstate.quantization.estimators.base import Kind
from midstate.quantization.method import Quantization
from midstate.quantization.modules import Quantised, put_before, put_on, remove_before
from midstate.sparsity.observe import Sample, evaluation
from midstate.sparsity.tensors import Layer, fold, input_of

NUM_CALIBRATED = 64  # training images that quantisers of inputs are fitted to
BitsPair = tuple[int | None, int | None]  # bits of weights and of inputs; None: not quantised


@dataclass
class QuantisedLayer:
    """One layer and its quantisers; after `finish` also its final bits and the values that its weights may have."""

    layer: Layer
    fixed_bits: int | None  # set by the scope; None: the allocation decides
    weight: Quantised
    input: Quantised | None
    num_inputs: int  # elements of the layer's input for one image; 0: not quantised
    hidden: nn.Parameter = field(init=False)
    values: Tensor | None = None  # allowed values of the finished weights, (rows, at most 2^b)
    final_bits: BitsPair = (None, None)

    def __post_init__(self) -> None:
        put_on(self.layer, self.weight)
        if self.input is not None:
            put_before(self.layer.module, self.input)
        self.hidden = self.layer.module.parametrizations[self.layer.tensor_name].original

    @property
    def bits(self) -> BitsPair:
        """Bits of weights and inputs in force."""
        return self.weight.bits, self.input.bits if self.input is not None else None

    def attainable(self, bits: BitsPair) -> BitsPair:
        """The bits that this layer gets of these: inputs without a quantiser stay as they are (None)."""
        return bits if self.input is not None else (bits[0], None)

    @property
    def parts(self) -> list[Quantised]:
        """The quantiser of weights and, if there is one, that of inputs."""
        return [self.weight, *([self.input] if self.input is not None else [])]

    @property
    def used(self) -> Tensor:
        """The hidden weights, detached, masked ones set to 0."""
        masks = [each.mask for each in self._parametrizations if hasattr(each, "mask")]
        return self.hidden.detach() * masks[0] if masks else self.hidden.detach()

    @property
    def is_masked(self) -> bool:
        """Tell whether the weight has a pruner's mask."""
        return any(hasattr(each, "mask") for each in self._parametrizations)

    @property
    def _parametrizations(self) -> Sequence[nn.Module]:
        if not parametrize.is_parametrized(self.layer.module, self.layer.tensor_name):
            return []
        return self.layer.module.parametrizations[self.layer.tensor_name]

    def put_weight(self, bits: int | None) -> None:
        """Set the bits of weights; if they change, fit the values anew. Learned bits, once in force, stay."""
        if self.weight.bits == bits or (self.weight.on and bits is not None and self.weight.kind.learned):
            return
        self.weight.put(bits)
        if bits is not None:
            self.weight.estimator.start(self.used, self.weight.kind, self.weight.memory)

    def put_input(self, bits: int | None) -> None:
        """Set the bits of inputs; if they change, the next inputs fit the values. Learned bits, once in force, stay."""
        each = self.input
        if each is None or each.bits == bits or (each.on and bits is not None and each.kind.learned):
            return
        each.put(bits)
        each.starting = bits is not None

    def refit(self) -> None:
        """Let the estimator fit the values to the present weights."""
        if self.weight.on:
            self.weight.estimator.refit(self.used, self.weight.kind, self.weight.memory)

    def finish(self) -> None:
        """Record final bits and values, freeze the quantiser of inputs, and fold the weight unless it has a mask."""
        self.final_bits = self.bits
        if self.weight.on:
            self.values = self.weight.estimator.values(self.weight.kind, self.weight.memory).detach().clone()
        if self.input is not None:
            if self.input.on:
                put_before(self.layer.module, self.input.estimator.fixed(self.input.kind, self.input.memory))
            else:
                remove_before(self.layer.module)
        if not self.is_masked:
            fold(self.layer)

    def obeys(self) -> bool:
        """Tell whether every row has only values of the grid or 0, and at most 2^b different non-zero values."""
        if self.values is None:
            return True
        weight, num = self.layer.weight.detach(), 2 ** self.final_bits[0]
        rows = weight.flatten(1) if len(self.values) > 1 else weight.reshape(1, -1)
        return all(
            bool((torch.isin(row, values.to(row.dtype)) | (row == 0)).all()) and len(row[row != 0].unique()) <= num
            for row, values in zip(rows, self.values, strict=True)
        )


def attach(
    model: nn.Module,
    method: Quantization,
    layers: Sequence[Layer],
    fixed: Sequence[int | None],
    sample: Sample | None,
) -> list[QuantisedLayer]:
    """Attach quantisers to layers; no bits are in force yet.

    Args:
        model: the model of the layers.
        method: gives the estimators.
        layers: layers to quantise.
        fixed: bits that the scope sets, one entry a layer; None: the allocation decides.
        sample: training images; needed where inputs are quantised.

    Raises:
        ValueError: inputs are quantised, and `sample` is None.
    """
    by_gates = isinstance(method.allocation, Gates)
    inputs = _observed(model, layers, sample) if method.quantises_inputs else {}
    found = []
    for layer, own in zip(layers, fixed, strict=True):
        remove_before(layer.module)  # loaded with the weights of a finished network
        learned = by_gates and own is None
        kind = Kind(own or method.estimator.bits[1], True, True, learned)
        weight = Quantised(layer.weight, method.estimator, kind)
        before = None
        if layer.name in inputs:
            seen, signed = inputs[layer.name]
            learned = by_gates and own is None and method.activation.learns_bits
            kind = Kind(own or method.activation.bits[1], signed, False, learned)
            before = Quantised(seen, method.activation, kind)
        num_inputs = inputs[layer.name][0].numel() if layer.name in inputs else 0
        found.append(QuantisedLayer(layer, own, weight, before, num_inputs))
    return found


@torch.no_grad()
def calibrate(model: nn.Module, layers: Sequence[QuantisedLayer], sample: Sample | None) -> None:
    """Fit the quantisers of inputs whose bits have just changed, one by one, in one pass of training images."""
    if any(each.input is not None and each.input.starting for each in layers):
        with evaluation(model):
            model(sample.images[:NUM_CALIBRATED])


@contextmanager
def restored(layers: Sequence[QuantisedLayer]) -> Iterator[None]:
    """Restore bits and values at the end of the context."""
    every = [each for layer in layers for each in layer.parts]
    before = [(each, each.kind, each.on, [t.detach().clone() for t in each.memory.values()]) for each in every]
    try:
        yield
    finally:
        with torch.no_grad():
            for each, kind, on, saved in before:
                each.kind, each.on, each.starting = kind, on, False
                for tensor, old in zip(each.memory.values(), saved, strict=True):
                    tensor.copy_(old)


@torch.no_grad()
def _observed(model: nn.Module, layers: Sequence[Layer], sample: Sample | None) -> dict[str, tuple[Tensor, bool]]:
    """By layer name: the inputs for the first image, and whether any input of the sample is negative."""
    if sample is None:
        raise ValueError("quantisers of inputs begin from training images; give the quantizer a sample")
    found: dict[str, tuple[Tensor, bool]] = {}

    def record(layer: Layer, inputs: tuple, named: dict[str, Any]) -> None:
        x = input_of(layer.module, inputs, named)
        signed = bool((x < 0).any()) or found.get(layer.name, (None, False))[1]
        found[layer.name] = x[:1].clone(), signed

    whole = [layer for layer in layers if layer.tensor_name == "weight"]
    hooks = [
        layer.module.register_forward_pre_hook(lambda _, *given, layer=layer: record(layer, *given), with_kwargs=True)
        for layer in whole
    ]
    try:
        with evaluation(model):
            model(sample.images[:NUM_CALIBRATED])
    finally:
        for hook in hooks:
            hook.remove()
    return found
