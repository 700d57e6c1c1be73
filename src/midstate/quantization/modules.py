"""Quantisers in a network: parametrizations of weights, and modules that a layer's inputs pass through first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from midstate.quantization.estimators.base import Estimator, Kind
from midstate.quantization.fixed import FixedLevels, FixedSteps
from midstate.sparsity.tensors import Layer, with_input

INPUT = "input_quantizer"  # name of the quantiser of inputs, a child module of its layer


class Quantised(nn.Module):
    """Quantises one tensor, as a parametrization or before a layer; without bits in force the tensor is unchanged.

    `kind` changes with the bits; a compiled model is then compiled again.
    """

    def __init__(self, x: Tensor, estimator: Estimator, kind: Kind) -> None:
        """Begin without any bits in force.

        Args:
            x: the weights, or inputs.
            estimator: estimator for this kind of tensor.
            kind: kind of the tensor, with the most bits that it will have.
        """
        super().__init__()
        self.estimator, self.kind, self.on = estimator, kind, False
        self.starting = False  # whether the next forward pass first fits the values to its tensor
        memory = estimator.memory(x, kind)
        self._names = tuple(memory)
        for name, tensor in memory.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    @property
    def memory(self) -> dict[str, Tensor]:
        """Tensors that the estimator keeps, by name."""
        return {name: getattr(self, name) for name in self._names}

    @property
    def bits(self) -> int | None:
        """Bits in force, or the number of open gates if bits are learned; None: no bits in force."""
        if not self.on:
            return None
        return int(self.estimator.bits_of(self.memory)) if self.kind.learned else self.kind.bits

    def put(self, bits: int | None) -> None:
        """Set the bits in force; None: the tensor passes unquantised. Learned parameters stay."""
        self.on = bits is not None
        self.kind = self.kind if bits is None else replace(self.kind, bits=bits)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tensor that the layer uses."""
        if not self.on:
            return x
        if self.starting:
            self.starting = False
            self.estimator.start(x.detach(), self.kind, self.memory)
        return self.estimator.apply(x, self.kind, self.memory)


def put_before(module: nn.Module, quantiser: nn.Module) -> None:
    """Have a module's first input go through a quantiser, which becomes its child `input_quantizer`."""
    setattr(module, INPUT, quantiser)
    if _quantise_input not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_quantise_input, with_kwargs=True)


def remove_before(module: nn.Module) -> None:
    """Remove a module's quantiser of inputs, if it has one."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if hook is _quantise_input:
            del module._forward_pre_hooks[key], module._forward_pre_hooks_with_kwargs[key]
    if hasattr(module, INPUT):
        delattr(module, INPUT)


def _quantise_input(module: nn.Module, inputs: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return with_input(module, inputs, named, getattr(module, INPUT))


def put_on(layer: Layer, quantiser: Quantised) -> None:
    """Make a quantiser the first parametrization of a layer's weight: a mask, if there is one, comes after it."""
    parametrize.register_parametrization(layer.module, layer.tensor_name, quantiser, unsafe=True)
    every = layer.module.parametrizations[layer.tensor_name]
    if len(every) > 1:
        every.insert(0, every.pop(len(every) - 1))


@contextmanager
def without_input_quantisers(model: nn.Module) -> Iterator[None]:
    """Remove the quantisers of inputs during the context: counts, gradients and exports are made without them."""
    taken = [(module, getattr(module, INPUT)) for module in _with_quantised_inputs(model)]
    for module, _ in taken:
        remove_before(module)
    try:
        yield
    finally:
        for module, quantiser in taken:
            put_before(module, quantiser)


@torch.no_grad()
def follow(copy: nn.Module, model: nn.Module) -> None:
    """Copy bits and values to a copy's quantisers, such as a moving average's, where the model's bits have changed.

    Values learned at other bits, or set before any bits were in force, must not be averaged with the new ones.
    """
    for own, other in zip(_quantisers(model), _quantisers(copy), strict=True):
        if (own.on, own.kind) != (other.on, other.kind):
            other.on, other.kind = own.on, own.kind
            for tensor, begun in zip(other.memory.values(), own.memory.values(), strict=True):
                tensor.copy_(begun)


def _quantisers(model: nn.Module) -> list[Quantised]:
    return [module for module in model.modules() if isinstance(module, Quantised)]


def _with_quantised_inputs(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, INPUT)]


def drop_input_quantisers(model: nn.Module) -> bool:
    """Remove a finished network's quantisers of inputs, whose gradient is 0; tell whether it had any."""
    found = _with_quantised_inputs(model)
    for module in found:
        remove_before(module)
    return bool(found)


def load_input_quantisers(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Create the quantisers of inputs that a finished network's state names; load_state_dict then sets their values.

    Args:
        model: plain.
        state: state dict of the file.
    """
    for name in state:
        place, _, buffer = name.partition(f".{INPUT}.")
        if buffer == "step":
            put_before(model.get_submodule(place), FixedSteps())
        elif buffer == "levels":
            put_before(model.get_submodule(place), FixedLevels(torch.zeros_like(state[name])))
