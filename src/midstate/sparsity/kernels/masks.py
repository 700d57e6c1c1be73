"""N:M masks of all layers by one Triton kernel on a GPU, if Triton works there; the same bits as layer by layer."""

import logging
import os
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from midstate.sparsity.kernels.selection import NAN, Unrankable

log = logging.getLogger(__name__)


def masks_by_kernel(m: int, scores: Sequence[Tensor], levels: Sequence[int | Tensor]) -> list[Tensor] | None:
    """Masks of all layers at once, or None if the kernel does not take such scores or levels; NaN raises Unrankable."""
    from midstate.sparsity.kernels import triton_nm  # needs Triton

    if not triton_nm.fits(scores, levels, m):
        return None
    masks, has_nan = triton_nm.keep_largest_of_groups(scores, levels, m)
    if has_nan.item():
        raise Unrankable(NAN)
    return masks


@cache
def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether Triton works for a type on a device: a GPU, or any device under TRITON_INTERPRET=1."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return False
    try:
        from midstate.sparsity.kernels import triton_nm

        if dtype not in triton_nm.TYPES:
            return False
        (mask,), has_nan = triton_nm.keep_largest_of_groups([torch.ones(1, 4, device=device, dtype=dtype)], [1], 4)
        if has_nan.item() or mask.tolist() != [[True, False, False, False]]:
            raise RuntimeError("the kernel gives a wrong mask")
    except Exception as error:  # whatever a missing package, compiler or header raises
        log.warning(f"warning: masks are made layer by layer, more slowly: Triton does not work here ({error})")
        return False
    return True
