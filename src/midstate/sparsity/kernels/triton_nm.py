"""N:M masks of all layers in one GPU kernel. Imported only where it runs: Triton comes with torch for CUDA."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # weights per program: with more, large groups spill out of the registers
LARGEST = 32  # maximum of m: the loop over the members of a group is unrolled
TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def _keep_largest(
    table, layer_of, has_nan, m: tl.constexpr, width: tl.constexpr, block: tl.constexpr, dtype: tl.constexpr
):  # fmt: skip
    """Mark the n largest of each group of m; a program takes `block` groups of one layer.

    A member's rank is the number of members that are larger, or equal with a lower index: ties need no repair.
    """
    layer = tl.load(layer_of + tl.program_id(0)).to(tl.int64)
    row = table + layer * 6
    scores = tl.load(row).to(tl.pointer_type(dtype))
    masks = tl.load(row + 1).to(tl.pointer_type(tl.int8))
    num_groups, inner, n = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
    group = (tl.program_id(0) - tl.load(row + 5)) * block + tl.arange(0, block)
    start = (group // inner) * m * inner + group % inner
    member = tl.arange(0, width)  # a power of two, m or more
    there = (group < num_groups)[:, None] & (member < m)[None, :]
    place = start[:, None] + member[None, :] * inner
    value = tl.load(scores + place, mask=there, other=0.0)
    tl.atomic_max(has_nan, tl.max((value != value).to(tl.int32)))
    rank = tl.zeros((block, width), tl.int32)
    for other in tl.static_range(m):
        rival = tl.load(scores + start + other * inner, mask=group < num_groups, other=0.0)[:, None]
        rank += ((rival > value) | ((rival == value) & (other < member)[None, :])).to(tl.int32)
    tl.store(masks + place, (rank < n).to(tl.int8), mask=there)


def keep_largest_of_groups(scores: Sequence[Tensor], levels: Sequence[int], m: int) -> tuple[list[Tensor], Tensor]:
    """Keep the n largest of every m neighbours along dim 1, in all layers at once.

    Args:
        scores: (O, C) or (O, C, *K) each, on one device, of one float type, C divisible by m, stored contiguously or
            channels last.
        levels: n of each layer, 0..m.
        m: group size.

    Returns:
        Bool masks in the memory layout of the scores; ties keep the lower index. And a tensor (1,) on the device, not 0
        if a score is NaN: reading it waits for the kernel.
    """
    block = TILE // triton.next_power_of_2(m)
    masks = [torch.empty_like(score, dtype=torch.bool) for score in scores]
    rows, layer_of = [], []
    for i, (score, mask, n) in enumerate(zip(scores, masks, levels, strict=True)):
        num_groups = score.numel() // m
        inner = 1 if score.stride(1) == 1 else score.shape[2:].numel()  # stride between two members of a group
        rows.append((score.data_ptr(), mask.data_ptr(), num_groups, inner, n, len(layer_of)))
        layer_of += [i] * triton.cdiv(num_groups, block)
    device = scores[0].device
    has_nan = torch.zeros(1, dtype=torch.int32, device=device)
    # Triton launches on the current device, not on the tensors' device.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        _keep_largest[(len(layer_of),)](
            torch.tensor(rows, dtype=torch.int64).to(device),
            torch.tensor(layer_of, dtype=torch.int32).to(device),
            has_nan,
            m=m,
            width=triton.next_power_of_2(m),
            block=block,
            dtype=TYPES[scores[0].dtype],
        )
    return masks, has_nan


def fits(scores: Sequence[Tensor], levels: Sequence[int | Tensor], m: int) -> bool:
    """Tell whether `keep_largest_of_groups` takes these scores."""
    first = scores[0]
    return (
        m <= LARGEST
        and all(isinstance(level, int) for level in levels)
        and all(
            score.dtype == first.dtype
            and score.dtype in TYPES
            and score.device == first.device
            and score.shape[1] % m == 0
            and (score.is_contiguous() or (score.dim() == 4 and score.is_contiguous(memory_format=torch.channels_last)))
            for score in scores
        )
    )
