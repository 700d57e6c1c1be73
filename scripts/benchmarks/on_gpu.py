"""A GPU: fp16, compiled, and 2:4 linear layers on sparse tensor cores."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from benchmarks.loaded import Loaded, linear_sizes, size_in_bytes
from midstate.formats import semi_structured

DEVICE = "cuda"


def in_fp16(model: nn.Module, images: Tensor) -> Loaded:
    """As it is."""
    half = deepcopy(model).to(DEVICE, torch.float16)
    return Loaded(lambda batch: half, size_in_bytes(half))


def compiled(model: nn.Module, images: Tensor) -> Loaded:
    """By torch.compile, for each batch size anew."""
    half = deepcopy(model).to(DEVICE, torch.float16)
    return Loaded(lambda batch: torch.compile(half, dynamic=False), size_in_bytes(half))


def not_semi_structured(model: nn.Module) -> str:
    """Why no layers are semi-structured."""
    if not semi_structured.has_kernels():
        return "does not apply: this GPU has no sparse tensor cores"
    if not linear_sizes(model):
        return "does not apply: there are kernels for linear layers only, and the classifier is the only one"
    return ""


def in_semi_structured(model: nn.Module, images: Tensor) -> Loaded:
    """Layers that obey 2:4 in torch's own format; others as they are."""
    half = deepcopy(model).to(DEVICE, torch.float16)
    whole, weights = size_in_bytes(half), semi_structured.linear_layers(model)[0]
    for name in weights:
        layer = half.get_submodule(name.removesuffix(".weight"))
        layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(layer.weight), requires_grad=False)
    saved = sum(weight.numel() for weight in weights.values()) * 2 * 7 // 16  # values 1/2, metadata 1/16
    return Loaded(lambda batch: half, whole - saved, f"{len(weights)} linear layers are semi-structured")
