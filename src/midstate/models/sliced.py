"""Networks of torchvision and timm with fewer channels, cut out of the wide ones by torch-pruning."""

import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from midstate.common.errors import first_line
from midstate.models.bridges import classifier_names
from midstate.models.start import Recipe
from midstate.sparsity import Layer, weight_layers

KNOWN = (_ConvNd, nn.Linear, _NormBase, nn.GroupNorm, nn.LayerNorm)  # modules that can be made narrower


@dataclass(frozen=True)
class Sliced:
    """Recipe of a library's network that keeps only the first channels of every layer (of each of its groups).

    Its initial weights are slices of the wide network's, so their variance is that of wider layers.
    """

    wide: Recipe
    share: Fraction  # of the channels of every layer, rounded down, one at least
    images: Tensor  # (N, C, H, W), on which dependencies between layers are traced

    def create(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the wide network and cut it.

        Raises:
            ValueError: the network cannot be cut.
        """
        model = self.wide.create(in_channels, num_classes)
        if self.share == 1:
            return model
        _refuse_unknown(model)
        try:
            with warnings.catch_warnings(action="ignore"):
                _cut(model, self.share, self.images)
                with torch.no_grad():
                    model.eval()(self.images)
        except Exception as error:  # networks that the library does not understand can raise any error
            raise _unsupported(model, first_line(error)) from error
        return model.train()


def torch_pruning() -> Any:
    """Import torch-pruning.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import torch_pruning as library
    except ImportError as error:
        raise ValueError(
            "narrower networks of torchvision and timm need torch-pruning, which is not installed: "
            "pip install -e '.[narrow]'"
        ) from error
    return library


def _refuse_unknown(model: nn.Module) -> None:
    """Raise ValueError for attention, and for parameters outside of KNOWN modules, whose channels are not known."""
    for name, module in model.named_modules():
        own = [key for key, _ in module.named_parameters(name, recurse=False)]
        if "Attention" in type(module).__name__ or (own and not isinstance(module, KNOWN)):
            raise _unsupported(model, f"{own[0] if own else name} of {type(module).__name__} is not understood")


def _unsupported(model: nn.Module, why: str) -> ValueError:
    return ValueError(
        f"a narrower {type(model).__name__} cannot be made here ({why}); give its own settings for width, such as "
        "model.arguments, with pruner=dense"
    )


def _cut(model: nn.Module, share: Fraction, images: Tensor) -> None:
    """Keep the first channels of every layer, in place; the number of logits stays."""
    library = torch_pruning()

    class First(library.importance.Importance):
        """The first channels count most."""

        def __call__(self, group: Any) -> Tensor:
            return torch.arange(len(group[0].idxs), 0, -1.0)

    def ratio(kept: float) -> float:
        return 1 - kept - 1e-9  # the library rounds the kept number down

    heads = classifier_names(model)
    widths = {layer: layer.weight.shape[0] for layer in weight_layers(model) if layer.name not in heads}
    groups = {layer: _groups(layer) for layer in widths}
    # At least one channel stays.
    few = {
        layer.module: ratio(groups[layer] / width) for layer, width in widths.items() if width * share < groups[layer]
    }
    library.pruner.BasePruner(
        model,
        images,
        First(),
        pruning_ratio=ratio(float(share)),
        pruning_ratio_dict=few,
        ignored_layers=[model.get_submodule(name) for name in heads],
    ).step()
    for layer, width in widths.items():
        if layer.weight.shape[0] == width and width * (1 - share) >= max(groups.values()):
            raise ValueError(f"{layer.name} keeps its width")


def _groups(layer: Layer) -> int:
    """Number of groups that must stay equally wide; 1 for a depthwise convolution, whose groups can be removed."""
    groups = layer.module.groups if layer.is_conv else 1
    return 1 if groups == layer.weight.shape[0] else groups
