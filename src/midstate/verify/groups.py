"""Numbers of non-zeros in the groups of a weight: along its inputs, along inputs and kernel, along its outputs.

Shape legend: O outputs, C inputs, *K kernel. A weight (O, C, *K) is cut into groups of M neighbours

    input      along C: M input channels of one output and one kernel position
    flattened  along C * K of one output, as the weight lies in memory
    output     along O: M outputs of one input and one kernel position

The last group of an axis that M does not divide is smaller, and counts like the others. Weights are read in slices of
outputs, so that little memory is needed.
"""

import ctypes
import mmap
import sys
from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor
from torch.nn import functional as F

AXES = ("input", "flattened", "output")
ELEMENTS = 2**22  # approximate number of elements in a slice
_PAGE_OUT = 21  # MADV_PAGEOUT of Linux: reclaim pages without losing their content


def most_non_zeros(parts: Sequence[Tensor], sizes: Sequence[int]) -> tuple[dict[str, dict[int, int]], int]:
    """The largest number of non-zeros in any group.

    Args:
        parts: tensors of one shape (O, C, *K), whose product is the weight.
        sizes: M of the groups, each a multiple of the one before.

    Returns:
        The largest number by axis and M, without groups longer than the axis, and without `flattened` if it equals
        `input`; and the total number of non-zeros of the weight.
    """
    shape = parts[0].shape
    lengths = dict(zip(AXES, (shape[1], shape[1:].numel(), shape[0]), strict=True))
    if lengths["flattened"] == lengths["input"]:
        del lengths["flattened"]
    most = {axis: {m: 0 for m in sizes if m <= length} for axis, length in lengths.items()}
    total, rows = 0, max(1, ELEMENTS // max(1, shape[1:].numel()) // sizes[-1]) * sizes[-1]
    for begin in range(0, shape[0], rows):
        marks = _non_zero([part[begin : begin + rows] for part in parts], sizes[-1])
        total += int(marks.count_nonzero())
        for axis, found in most.items():
            view = {"input": marks, "flattened": marks.flatten(1), "output": marks}[axis]
            for m, count in _most(view, 0 if axis == "output" else 1, list(found)).items():
                found[m] = max(found[m], count)
    for part in parts:
        _let_go(part)
    return most, total


def _non_zero(parts: list[Tensor], largest: int) -> Tensor:
    """1 where a weight is not zero, else 0, (O, C, K), in an integer type that can hold the count of a group."""
    marks = reduce(torch.logical_and, map(_marked, parts))
    marks = marks.contiguous().flatten(2) if marks.dim() > 2 else marks.contiguous().unsqueeze(2)
    return marks.view(torch.uint8) if largest < 256 else marks.int()


def _marked(tensor: Tensor) -> Tensor:
    """True where a number is not zero; float8 goes through float32, as not every torch can convert it to bool."""
    return (tensor.float() if tensor.dtype.itemsize == 1 and tensor.dtype.is_floating_point else tensor).bool()


def _most(marks: Tensor, dim: int, sizes: list[int]) -> dict[int, int]:
    """The largest sum of any group, by group size; sums of larger groups are computed from those of smaller groups."""
    found, done = {}, 1
    for m in sizes:
        factor = m // done
        if missing := -marks.shape[dim] % factor:
            marks = F.pad(marks, (0, 0) * (marks.dim() - 1 - dim) + (0, missing))
        marks, done = reduce(add, marks.unflatten(dim, (-1, factor)).unbind(dim + 1)), m
        found[m] = int(marks.max())
    return found


def _let_go(tensor: Tensor) -> None:
    """Let Linux reclaim the memory pages of a mapped file; they are read again when needed."""
    if sys.platform != "linux":
        return
    storage = tensor.untyped_storage()
    start = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (storage.data_ptr() + storage.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _PAGE_OUT)
