"""A GPU: fp16, compiled, and 2:4 linear layers on sparse tensor cores."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from benchmarks.loaded import Loaded, linear_sizes, size_in_bytes
from midstate.formats import semi_structured

DEVICE = "cuda"


def in_fp16(model: nn.Module, images: Tensor) -> Loaded:
    """Load the network in fp16."""
    half = deepcopy(model).to(DEVICE, torch.float16)
    return Loaded(lambda batch: half, size_in_bytes(half))


def compiled(model: nn.Module, images: Tensor) -> Loaded:
    """Load the network by torch.compile, anew for each batch size."""
    half = deepcopy(model).to(DEVICE, torch.float16)
    return Loaded(lambda batch: torch.compile(half, dynamic=False), size_in_bytes(half))


def not_semi_structured(model: nn.Module) -> str:
    """Tell why no layer can be semi-structured; empty if one may be."""
    if not semi_structured.has_kernels():
        return "does not apply: this GPU has no sparse tensor cores"
    if not linear_sizes(model):
        return "does not apply: there are kernels for linear layers only, and the classifier is the only one"
    return ""


def in_semi_structured(model: nn.Module, images: Tensor) -> Loaded:
    """Load the network with layers that obey 2:4 in torch's semi-structured format, others unchanged."""
    half = deepcopy(model).to(DEVICE, torch.float16)
    whole, weights = size_in_bytes(half), semi_structured.linear_layers(model)[0]
    for name in weights:
        layer = half.get_submodule(name.removesuffix(".weight"))
        layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(layer.weight), requires_grad=False)
    saved = sum(weight.numel() for weight in weights.values()) * 2 * 7 // 16  # values take 1/2, metadata 1/16
    return Loaded(lambda batch: half, whole - saved, f"{len(weights)} linear layers are semi-structured")
