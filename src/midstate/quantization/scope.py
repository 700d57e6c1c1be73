"""Scope: which layers are quantised, and which have fixed bits."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize

from midstate.common import checks
from midstate.sparsity.tensors import Layer, names_of, weight_layers


@dataclass(frozen=True)
class Scope:
    """Every convolution and linear layer that is not excluded.

    Args:
        first_bits: fixed bits of the first layer's weights and inputs; None: the allocation decides, as for the others.
        last_bits: the same for the classifier.
        exclude: shell-style name patterns of layers that are not quantised.
    """

    first_bits: int | None = 8
    last_bits: int | None = 8
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("first_bits", "last_bits"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), 1, 8)
        checks.texts("exclude", self.exclude, "layer1.*")

    def resolve(
        self, model: nn.Module, classifier: str | Collection[str] | None
    ) -> tuple[list[Layer], list[int | None]]:
        """List the layers of `model` to quantise, and for each its fixed bits; None: the allocation decides.

        Args:
            model: plain, or with masks on.
            classifier: name of its classifier, or names of its layers.

        Raises:
            ValueError: no layer is left, a pattern matches no layer, or a weight is shared or computed.
        """
        every, heads = weight_layers(model), names_of(classifier)
        unmatched = [each for each in self.exclude if not any(fnmatchcase(layer.name, each) for layer in every)]
        if unmatched:
            raise ValueError(f"exclude={unmatched}: matches no layer of {[layer.name for layer in every]}")
        layers = [layer for layer in every if not any(fnmatchcase(layer.name, each) for each in self.exclude)]
        if not layers:
            raise ValueError("exclude: no layer is left to quantise")
        _refuse_shared(layers, model)
        fixed = [
            self.first_bits if layer.depth == 0 else self.last_bits if layer.name in heads else None for layer in layers
        ]
        return layers, fixed


def _refuse_shared(layers: list[Layer], model: nn.Module) -> None:
    """Refuse weights that several modules share, and those that are computed from others."""
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    for layer in layers:
        if owners[id(_hidden(layer))] > 1:
            raise ValueError(
                f"quantizer: {layer.name} shares its weight with another layer; tied tensors cannot be quantised: "
                "quantizer.exclude leaves it out"
            )
        kind = type(layer.module).__name__
        if not isinstance(_hidden(layer), nn.Parameter) or "StdConv" in kind:
            raise ValueError(
                f"quantizer: {layer.name} ({kind}) computes its weight from other tensors, so that what is used would "
                "not be on the grid: quantizer.exclude leaves it out"
            )


def _hidden(layer: Layer) -> nn.Parameter:
    """A layer's weight as the optimizer has it, below masks."""
    if not parametrize.is_parametrized(layer.module, layer.tensor_name):
        return layer.weight
    every = layer.module.parametrizations[layer.tensor_name]
    return every.original if all(hasattr(each, "mask") for each in every) else layer.weight
