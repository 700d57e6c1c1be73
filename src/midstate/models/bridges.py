"""Bridges to torchvision and timm: any classification model by name, its stem adapted where asked."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from midstate.common import checks
from midstate.common.errors import first_line
from midstate.models.start import Recipe
from midstate.sparsity import weight_layers


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the layers that make the logits: several where there are several heads, or a head of several layers.

    timm models name them; for other models it is the last convolution or linear layer.
    """
    layers = weight_layers(model)
    if not hasattr(model, "get_classifier"):
        return tuple(layer.name for layer in layers[-1:])
    heads = model.get_classifier()
    heads = heads if isinstance(heads, tuple | list) else (heads,)
    below = {module for head in heads if isinstance(head, nn.Module) for module in head.modules()}
    return tuple(layer.name for layer in layers if layer.module in below)


def adapt_stem(model: nn.Module) -> None:
    """Adapt a network for large images to small ones: a 3x3 stem of stride 1, without the first max-pooling.

    Raises:
        ValueError: the first layer is no strided convolution, or it cuts the image into patches.
    """
    first = weight_layers(model)[0]
    conv = first.module
    if not isinstance(conv, nn.Conv2d) or max(conv.stride) == 1:
        raise ValueError(
            f"small_stem=True: the first layer, {first.name}, is no convolution with a stride; "
            "use small_stem=false, since that layer keeps small images as large as they are"
        )
    if conv.stride == conv.kernel_size:
        raise ValueError(
            f"small_stem=True: {first.name} cuts the image into {conv.kernel_size} patches; use small_stem=false, "
            "and give the model its image and patch size through `arguments` where it takes them"
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


def _like(layer: nn.Conv2d | nn.Linear, in_channels: int | None = None, out: int | None = None) -> nn.Module:
    """A new layer like `layer`, with other numbers of inputs or outputs."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, out or layer.out_features, bias=bias)
    return nn.Conv2d(
        in_channels or layer.in_channels,
        out or layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        bias=bias,
    )


def _drop_auxiliary(model: nn.Module) -> None:
    """Remove the training-only heads of GoogLeNet and Inception, as networks here return one tensor of logits."""
    for name in ("aux1", "aux2", "AuxLogits"):
        if hasattr(model, name):
            setattr(model, name, None)
            model.aux_logits = False


def _check_name(name: object, known: list[str], library: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"name={name!r}: {library} has no model of that name{hint}")


# Arguments of both libraries that load weights unknown to a run's identity, or that the data determine.
RESERVED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights")
RESERVED += ("weights_backbone", "num_classes", "in_chans", "features_only")


@dataclass(frozen=True)
class Trained:
    """Data that pretrained weights were trained on: mean and deviation of each channel, number of classes."""

    mean: Sequence[float]
    std: Sequence[float]
    num_classes: int


@dataclass(frozen=True)
class Bridge(Recipe):
    """Settings of a network from torchvision or timm.

    Args:
        name: name in the library's list of models.
        small_stem: see `adapt_stem`.
        arguments: further keyword arguments of the model, such as {img_size: 32, patch_size: 4}, none of RESERVED;
            None: none.
        pretrained: begin with the library's weights, downloaded unless they are in its cache. Where the data have
            another number of classes, the classifier is fresh.
    """

    name: str
    small_stem: bool = False
    arguments: dict[str, Any] | None = field(default_factory=dict)
    pretrained: bool | str = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.text("name", self.name)
        checks.boolean("small_stem", self.small_stem)
        self._check_arguments()
        self._check_library()
        if self.pretrained and self.checkpoint is not None:
            raise ValueError(f"pretrained={self.pretrained}: without effect beside a checkpoint; leave one of them out")
        if self.pretrained and self.small_stem:
            raise ValueError(f"small_stem=True: would be a fresh layer before pretrained={self.pretrained} ones")

    def _check_arguments(self) -> None:
        given = {} if self.arguments is None else self.arguments
        if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
            raise ValueError(f"arguments={given!r}: must be names with values such as {{drop_rate: 0.1}}, or null")
        if reserved := [name for name in RESERVED if name in given]:
            raise ValueError(
                f"arguments={given}: must not set {', '.join(reserved)}; use model.checkpoint, model.pretrained for "
                "weights; classes and channels are those of the data"
            )

    @contextmanager
    def _creating(self) -> Iterator[None]:
        """Explain errors of a library that refuses the arguments or cannot download the weights."""
        try:
            yield
        except Exception as error:  # models can raise any error for unexpected arguments
            if self.pretrained and isinstance(error, OSError):  # a failed download, in both libraries
                raise ValueError(
                    f"pretrained={self.pretrained}: the weights of {self.name} are not in the library's cache and "
                    f"cannot be downloaded ({first_line(error)}); fetch the file elsewhere and use "
                    "model.checkpoint=FILE"
                ) from error
            if not self.arguments:
                raise
            raise ValueError(
                f"arguments={self.arguments}: {type(error).__name__}: {first_line(error)}; arguments=null for none"
            ) from error


class Torchvision(Bridge):
    """A classification model of torchvision, named as `torchvision.models.list_models` lists it.

    `pretrained` may also be the name of its weights, such as IMAGENET1K_V1; true stands for its best ones.
    """

    def _check_library(self) -> None:
        from torchvision import models

        _check_name(self.name, models.list_models(module=models), "torchvision")
        names = [each.name for each in models.get_model_weights(self.name)]
        if not isinstance(self.pretrained, bool) and self.pretrained not in names:
            raise ValueError(f"pretrained={self.pretrained!r}: must be true, false or one of {', '.join(names)}")

    def _weights(self) -> Any | None:
        from torchvision import models

        if not self.pretrained:
            return None
        return models.get_model_weights(self.name)["DEFAULT" if self.pretrained is True else self.pretrained]

    def trained(self) -> Trained | None:
        """Say what its weights were trained on; None: it has none."""
        if not (weights := self._weights()):
            return None
        images = weights.transforms()
        return Trained(images.mean, images.std, len(weights.meta["categories"]))

    def create(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the network; new weights are drawn from torch's global generator.

        Raises:
            ValueError: pretrained weights cannot be downloaded, or read another number of channels.
        """
        from torchvision import models

        weights = self._weights()
        classes = {} if weights else {"num_classes": num_classes}  # pretrained: as many as the weights have
        with self._creating():
            model = models.get_model(self.name, weights=weights, **classes, **self.arguments or {})
        _drop_auxiliary(model)
        if self.small_stem:
            adapt_stem(model)
        first = weight_layers(model)[0]
        if first.module.in_channels != in_channels:
            if self.pretrained:
                raise ValueError(
                    f"pretrained={self.pretrained}: reads images of 3 channels, and these have {in_channels}"
                )
            _replace(model, first.name, _like(first.module, in_channels=in_channels))
        if weights and len(weights.meta["categories"]) != num_classes:
            (classifier,) = classifier_names(model)
            _replace(model, classifier, _like(model.get_submodule(classifier), out=num_classes))
        return model


class Timm(Bridge):
    """A model of timm, named as `timm.list_models` lists it; a tag (resnet50.a1_in1k) chooses its weights."""

    def _check_library(self) -> None:
        import timm

        checks.boolean("pretrained", self.pretrained)
        _check_name(self.name.partition(".")[0], timm.list_models(), "timm")
        if "." in self.name:
            _check_name(self.name, timm.list_pretrained(f"{self.name.partition('.')[0]}.*"), "timm")
        if self.pretrained and not timm.is_model_pretrained(self.name):
            raise ValueError(f"pretrained=True: timm has no weights of {self.name}")

    def trained(self) -> Trained | None:
        """Say what its weights were trained on; None: it has none."""
        import timm

        if not self.pretrained:
            return None
        found = timm.get_pretrained_cfg(self.name)
        return Trained(found.mean, found.std, found.num_classes)

    def create(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the network; new weights are drawn from torch's global generator.

        Raises:
            ValueError: pretrained weights cannot be downloaded.
        """
        import timm

        with self._creating():
            model = timm.create_model(
                self.name,
                pretrained=self.pretrained,
                in_chans=in_channels,
                num_classes=num_classes,
                **self.arguments or {},
            )
        if self.small_stem:
            adapt_stem(model)
        return model
