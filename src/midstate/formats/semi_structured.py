"""2:4 linear layers as sparse tensor cores read them: half of the values, and two bits of metadata for each.

torch's public function, `to_sparse_semi_structured`, refuses every tensor that is not on a GPU. Without a GPU that has
the kernels, torch's own conversion to CUTLASS is called: the public function uses it, too, and it runs anywhere.
"""

import warnings

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensor, SparseSemiStructuredTensorCUTLASS, to_sparse_semi_structured
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from midstate.sparsity import verify_nm, weight_layers

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ROWS, COLUMNS = 32, 64  # a layer's outputs and inputs must be multiples of these
FIRST = (8, 0)  # compute capability of the first GPUs with such kernels


def linear_layers(model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """By name, the weights of linear layers that obey 2:4; and the names of those among them whose sizes do not fit."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(layer.weight)]: layer.weight.detach()
        for layer in weight_layers(model)
        if isinstance(layer.module, nn.Linear) and verify_nm(layer.weight, 2, 4) and layer.weight.any()
    }
    fit = {name: weight for name, weight in found.items() if not (weight.shape[0] % ROWS or weight.shape[1] % COLUMNS)}
    return fit, [name for name in found if name not in fit]


def converted(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """NAME.values (O, C/2) of the given dtype and NAME.metadata of int16 for each weight (O, C).

    Raises:
        ValueError: a weight is too large for the dtype, or is not the same when it is read back.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        half = weight.cpu().to(dtype)
        if not half.isfinite().all():
            raise ValueError(f"{name}: has weights that {dtype} cannot hold; use the other type")
        values, metadata = _of_gpu(half) if has_kernels() else sparse_semi_structured_from_dense_cutlass(half)
        if not sparse_semi_structured_to_dense_cutlass(values, metadata).equal(half):
            raise ValueError(f"{name}: is not the same when it is read back; this is a defect, please report it")
        tensors |= {f"{name}.values": values, f"{name}.metadata": metadata}
    return tensors


def has_kernels() -> bool:
    """Tell whether there is a GPU here with kernels for 2:4."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= FIRST


def _of_gpu(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Convert with the public function by CUTLASS: cuSPARSELt would keep values and metadata in one tensor."""
    before, SparseSemiStructuredTensor._FORCE_CUTLASS = SparseSemiStructuredTensor._FORCE_CUTLASS, True
    try:
        with warnings.catch_warnings(action="ignore"):  # the warning that it is a prototype
            sparse: SparseSemiStructuredTensorCUTLASS = to_sparse_semi_structured(weight.cuda())
    finally:
        SparseSemiStructuredTensor._FORCE_CUTLASS = before
    return sparse.packed.cpu(), sparse.meta.cpu()
