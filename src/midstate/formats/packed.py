"""Non-zero values and a bitmask for each tensor: a small file for a network with zeros anywhere.

The layout is the one that compressed-tensors called sparse-bitmask up to 0.14. A tensor (O, *rest) is seen as O rows:

    NAME.compressed    its values that are not zero, row after row
    NAME.bitmask       (O, bytes) of uint8: a bit a weight, the lowest first
    NAME.shape         its shape
    NAME.row_offsets   where each row begins in `compressed`
"""

import numpy as np
import torch
from torch import Tensor

from midstate.formats.plain import State, size_in_bytes

PARTS = ("compressed", "bitmask", "shape", "row_offsets")


def packed(state: State) -> dict[str, Tensor]:
    """Pack every tensor that becomes smaller; the others stay unchanged under their own names."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = _packed(name, tensor.detach().cpu()) if tensor.dim() > 1 else {}
        smaller = parts and size_in_bytes(parts) < size_in_bytes({name: tensor})
        tensors |= parts if smaller else {name: tensor}
    return tensors


def _packed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    rows = tensor.flatten(1)
    marks = rows != 0
    counts = marks.sum(1)
    parts = (
        rows[marks],
        torch.from_numpy(np.packbits(marks.numpy(), axis=-1, bitorder="little")),
        torch.tensor(tensor.shape),
        counts.cumsum(0) - counts,
    )
    return {f"{name}.{part}": each for part, each in zip(PARTS, parts, strict=True)}


def unpacked(tensors: State) -> dict[str, Tensor]:
    """Restore the state dict that was packed."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole, _, part = name.rpartition(".")
        if f"{whole}.bitmask" not in tensors or part not in PARTS:
            state[name] = tensor
        elif part == "bitmask":
            shape = tensors[f"{whole}.shape"].tolist()
            marks = np.unpackbits(tensor.numpy(), axis=-1, count=int(np.prod(shape[1:])), bitorder="little")
            values = tensors[f"{whole}.compressed"]
            rows = torch.zeros(marks.shape, dtype=values.dtype)
            rows[torch.from_numpy(marks).bool()] = values
            state[whole] = rows.view(shape)
    return state


def least_bytes(state: State, tensors: State) -> int:
    """Theoretical size in bytes: non-zeros and one bit a weight for packed tensors, the full size for others."""
    return sum(
        int(tensor.count_nonzero()) * tensor.element_size() + -(-tensor.numel() // 8)
        if f"{name}.bitmask" in tensors
        else tensor.numel() * tensor.element_size()
        for name, tensor in state.items()
    )
