"""Bridges to torchvision and timm: any classification model by name, its stem adapted where asked."""

import difflib
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from midstate.models.start import Recipe
from midstate.sparsity import checks, weight_layers


def classifier_name(model: nn.Module) -> str | None:
    """Name of the module that makes the logits.

    timm models say so themselves; of others it is the last convolution or linear layer.
    """
    names = [layer.name for layer in weight_layers(model)]
    if hasattr(model, "get_classifier"):
        head = model.get_classifier()
        return next((name for name, module in model.named_modules() if module is head and name in names), None)
    return names[-1] if names else None


def adapt_stem(model: nn.Module) -> None:
    """Fit a network made for large images to small ones: a 3x3 stem of stride 1, and no pooling after it.

    Raises:
        ValueError: the first layer is no strided convolution, or it cuts the image into patches.
    """
    first = weight_layers(model)[0]
    conv = first.module
    if not isinstance(conv, nn.Conv2d) or max(conv.stride) == 1:
        raise ValueError(f"small_stem=True: the first layer, {first.name}, is no convolution with a stride")
    if conv.stride == conv.kernel_size:
        raise ValueError(
            f"small_stem=True: {first.name} cuts the image into {conv.kernel_size} patches; "
            "give the model its image and patch size through `arguments` instead"
        )
    _replace(
        model, first.name, nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.MaxPool2d):
            _replace(model, name, nn.Identity())
            break


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _check_name(name: object, known: list[str], library: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"name={name!r}: {library} has no model of that name{hint}")


@dataclass(frozen=True)
class Torchvision(Recipe):
    """A classification model of torchvision.

    Args:
        name: as `torchvision.models.list_models` lists it.
        small_stem: see `adapt_stem`.
        arguments: further keyword arguments of the model.
    """

    name: str
    small_stem: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        from torchvision import models

        _check_name(self.name, models.list_models(module=models), "torchvision")
        checks.boolean("small_stem", self.small_stem)

    def create(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights from torch's global generator."""
        from torchvision import models

        model = models.get_model(self.name, weights=None, num_classes=num_classes, **self.arguments)
        if self.small_stem:
            adapt_stem(model)
        first = weight_layers(model)[0]
        conv = first.module
        if conv.in_channels != in_channels:
            _replace(
                model,
                first.name,
                nn.Conv2d(
                    in_channels,
                    conv.out_channels,
                    conv.kernel_size,
                    stride=conv.stride,
                    padding=conv.padding,
                    bias=conv.bias is not None,
                ),
            )
        return model


@dataclass(frozen=True)
class Timm(Recipe):
    """A model of timm.

    Args:
        name: as `timm.list_models` lists it.
        small_stem: see `adapt_stem`.
        arguments: further keyword arguments of the model, such as {img_size: 32, patch_size: 4}.
    """

    name: str
    small_stem: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        import timm

        _check_name(self.name, timm.list_models(), "timm")
        checks.boolean("small_stem", self.small_stem)

    def create(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights from torch's global generator."""
        import timm

        model = timm.create_model(self.name, in_chans=in_channels, num_classes=num_classes, **self.arguments)
        if self.small_stem:
            adapt_stem(model)
        return model
