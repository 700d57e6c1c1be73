"""Weight tensors of a model: those of known layers, and all others."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList


@dataclass(frozen=True)
class Layer:
    """One prunable tensor: `name` as a user reads it, `depth` its place among all weight tensors."""

    name: str
    module: nn.Module
    tensor_name: str
    depth: int
    known: bool = True  # whether `weight_layers` lists it: the meaning of its dimensions is known

    @property
    def weight(self) -> Tensor:
        """The tensor as the network uses it."""
        return getattr(self.module, self.tensor_name)

    @property
    def input_index(self) -> int:
        """Which of the module's inputs the tensor reads: attention takes query, key and value.

        Raises:
            ValueError: the layer is not `known`.
        """
        if not self.known:
            raise ValueError(
                f"{self.name}: what this tensor of {type(self.module).__name__} reads is not known, so nothing can be "
                "measured on it; choose a criterion and an allocation that look at weights alone"
            )
        return {"k_proj_weight": 1, "v_proj_weight": 2}.get(self.tensor_name, 0)

    @property
    def is_conv(self) -> bool:
        """Tell whether the tensor belongs to a convolution (channels in dim 1 of features), not a linear layer."""
        return isinstance(self.module, _ConvNd)


def weight_layers(model: nn.Module) -> list[Layer]:
    """List every convolution and linear weight of `model` in module order, attention's in_proj_weight too.

    Transposed convolutions are left out: their input channels are dim 0. So are empty weights, of layers with 0
    inputs or outputs.
    """
    layers: list[Layer] = []
    for module_name, module in model.named_modules():
        for tensor_name in _weight_names(module):
            name = layer_name(f"{module_name}.{tensor_name}")
            if getattr(module, tensor_name).numel():
                layers.append(Layer(name, module, tensor_name, len(layers)))
    return layers


def other_tensors(model: nn.Module) -> list[Layer]:
    """List every other floating parameter of two or more dimensions, in module order; `depth` goes on from the layers.

    The meaning of their dimensions depends on the module; for transposed convolutions and Hugging Face's Conv1D it is
    known, see `is_transposed`. Parametrized tensors (such as masked ones) are left out.
    """
    first = len(weight_layers(model))
    seen = {id(layer.weight) for layer in weight_layers(model)}
    found: list[Layer] = []
    for module_name, module in model.named_modules():
        inside = isinstance(module, ParametrizationList) or ".parametrizations." in f".{module_name}"
        for tensor_name, tensor in [] if inside else module.named_parameters(recurse=False):
            if tensor.dim() > 1 and tensor.is_floating_point() and tensor.numel() and id(tensor) not in seen:
                seen.add(id(tensor))
                name = layer_name(f"{module_name}.{tensor_name}")
                found.append(Layer(name, module, tensor_name, first + len(found), known=False))
    return found


def fold(layer: Layer) -> None:
    """Remove all parametrizations of the tensor, masks and others, and leave the plain weight that the network uses."""
    if parametrize.is_parametrized(layer.module, layer.tensor_name):
        remove_parametrizations(layer.module, layer.tensor_name, leave_parametrized=True)


def remove_parametrizations(module: nn.Module, name: str, leave_parametrized: bool) -> None:
    """As torch's function, but deep copies of the module, such as a moving average, keep theirs.

    They share the class that torch made for the module, and removal takes the tensor's property from it.
    """
    shared = type(module)
    body = {key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, body)
    parametrize.remove_parametrizations(module, name, leave_parametrized)


def original(module: nn.Module, name: str) -> Tensor:
    """A tensor as the optimizer has it, without its parametrizations."""
    lists = getattr(module, "parametrizations", {})
    return lists[name].original if name in lists else getattr(module, name)


def input_of(module: nn.Module, inputs: tuple, named: Mapping[str, Any], index: int = 0) -> Any:
    """One input of a module's call by its place, whether it was passed by position or by name."""
    return inputs[index] if index < len(inputs) else named[input_name(module, index)]


def with_input(
    module: nn.Module, inputs: tuple, named: Mapping[str, Any], change: Callable[[Any], Any]
) -> tuple[tuple, dict[str, Any]]:
    """A module's inputs with the first one changed, whether it was passed by position or by name."""
    if inputs:
        return (change(inputs[0]), *inputs[1:]), dict(named)
    name = input_name(module)
    return inputs, {**named, name: change(named[name])}


def input_name(module: nn.Module, index: int = 0) -> str:
    """Name of a module's input, by its place."""
    return list(signature(module.forward).parameters)[index]


def layer_name(tensor_name: str) -> str:
    """Name of the layer whose tensor has this name in a state dict."""
    return tensor_name.removeprefix(".").removesuffix(".weight")


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a module's weight has its inputs in dim 0: (in, out/groups, *K), or Conv1D's (in, out).

    Rows, filters and groups of M neighbours assume (out, in/groups, *K), and would be cut along the wrong dimension.
    """
    return isinstance(module, _ConvTransposeNd) or type(module).__name__ == "Conv1D"


def is_depthwise(layer: Layer) -> bool:
    """Tell whether a layer is a convolution with several groups of one input channel each."""
    return layer.is_conv and layer.module.groups > 1 and layer.module.weight.shape[1] == 1


def shape_of(layer: Layer) -> dict[str, Any]:
    """Properties of a layer beside the shape of its weight, as keyword arguments of `LayerView`."""
    stride = layer.module.stride[0] if layer.is_conv else 1
    return {"stride": stride, "is_depthwise": is_depthwise(layer), "is_conv": layer.is_conv}


def names_of(classifier: str | Collection[str] | None) -> frozenset[str]:
    """A classifier's layers as a set, however they are given."""
    return frozenset([classifier] if isinstance(classifier, str) else classifier or ())


def _weight_names(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is not None:
            return ("in_proj_weight",)
        return ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    if isinstance(module, _ConvNd | nn.Linear) and not isinstance(module, _ConvTransposeNd):
        return ("weight",)
    return ()
