"""Tensors of a file that any program wrote, memory-mapped if possible; no code of the file is run.

Three formats, told apart by their content: safetensors, what torch.save writes, and what torch.export.save writes.
"""

import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from midstate.common.errors import first_line
from midstate.common.state_dicts import named_tensors
from midstate.verify import programs

Tensors = dict[str, Callable[[], Tensor]]  # by name, a function that reads the tensor


class NoCheckpoint(Exception):
    """A file that holds no tensors by name, or cannot be read as such."""


class _Inert(list):
    """Stands for any class or function that a file names: accepts any arguments, and does nothing."""

    def __new__(cls, *_: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


@contextmanager
def opened(path: Path) -> Iterator[Tensors]:
    """The tensors of a file by name, valid within the context.

    Raises:
        NoCheckpoint: the file is no checkpoint.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        reader = _safetensors if _is_safetensors(head, path.stat().st_size) else _torch
        if head[:2] == b"PK":
            names = zipfile.ZipFile(path).namelist()
            if any(name.endswith("_weights_config.json") for name in names):
                reader = programs.tensors
            elif set(programs.BEFORE) & {*names}:
                reader = programs.tensors_before
        found = reader(path)
    except NoCheckpoint:
        raise
    except Exception as error:  # damaged files, and files of other kinds, can raise any error
        why = "what it holds is not tensors alone" if isinstance(error, UnpicklingError) else first_line(error)
        raise NoCheckpoint(
            f"{path}: no checkpoint that can be read without running it ({why}); state dicts of torch.save, "
            "safetensors and .pt2 of torch.export are"
        ) from error
    if not found:
        raise NoCheckpoint(f"{path}: holds no tensors by name; a state dict is needed")
    yield found


def read(tensors: Tensors, names: Sequence[str], form: str = "plain") -> list[Tensor]:
    """Read the tensors whose product is the weight, all expanded to the first one's shape.

    Args:
        tensors: of an open file.
        names: names of the parts that make the weight.
        form: form of storage, see `layers.Stored`.

    Raises:
        NoCheckpoint: a part cannot be read, or its shape does not fit.
    """
    try:
        found = [tensors[name]() for name in names]
        if form == "packed":
            return [_bits(*found[:2]).to(found[2].dtype)]
        if form == "semi_structured":
            from torch.sparse._semi_structured_conversions import sparse_semi_structured_to_dense_cutlass

            return [sparse_semi_structured_to_dense_cutlass(*found)]
        found = [each if each.layout is torch.strided else each.to_dense() for each in found]
        return [each.expand_as(found[0]) for each in found]
    except Exception as error:
        raise NoCheckpoint(f"{names[0]}: cannot be read ({first_line(error)})") from error


def _bits(bitmask: Tensor, shape: Tensor) -> Tensor:
    """Unpack a bitmask (O, bytes), the lowest bit first, to zeros and ones (O, *rest) in int8."""
    bits = bitmask.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(1)[:, : int(shape[1:].prod())].reshape(shape.tolist()).view(torch.int8)


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < size


def _safetensors(path: Path) -> Tensors:
    from safetensors import safe_open

    file = safe_open(path, "pt")
    return {name: lambda name=name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _torch(path: Path) -> Tensors:
    """The tensors of a torch.save file, memory-mapped if it has the zip format."""
    zipped = zipfile.is_zipfile(path)
    known = {"builtins.dict": dict, "collections.defaultdict": defaultdict}
    inert = [(_Inert, name) for name in get_unsafe_globals_in_checkpoint(path) if name not in known] if zipped else []
    with safe_globals([*inert, *((each, name) for name, each in known.items())]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecation warnings
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    return {name: lambda each=each: each for name, each in named_tensors(content).items()}
