"""Tensors of a file, whoever wrote it: read where they lie; no code of the file is run.

Three formats, told apart by their content: safetensors, what torch.save writes, and what torch.export.save writes.
"""

import json
import mmap
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from midstate.common.errors import first_line
from midstate.common.state_dicts import CONTAINERS, holds_tensors

Tensors = dict[str, Callable[[], Tensor]]  # each is made when it is asked for
OLD_PROGRAMS = ("serialized_state_dict.pt", "serialized_state_dict.json")  # of torch.export.save up to torch 2.8
# torch.export's numbers for dtypes; those that are not here are no weights.
DTYPES = {2: torch.int8, 6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}
DTYPES |= {29: torch.float8_e4m3fn, 30: torch.float8_e5m2, 1: torch.uint8, 12: torch.bool}


class NoCheckpoint(Exception):
    """A file that holds no tensors by name, or cannot be read as such."""


class _Inert(list):
    """Stands for any class or function that a file names: it takes what it is given, and does nothing."""

    def __new__(cls, *_: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


@contextmanager
def opened(path: Path) -> Iterator[Tensors]:
    """The tensors of a file by name; they are valid as long as it is open.

    Raises:
        NoCheckpoint: it is none.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        reader = _safetensors if _is_safetensors(head, path.stat().st_size) else _torch
        if head[:2] == b"PK":
            names = zipfile.ZipFile(path).namelist()
            if any(name.endswith("_weights_config.json") for name in names):
                reader = _exported
            elif set(OLD_PROGRAMS) & {*names}:
                reader = _exported_before
        found = reader(path)
    except NoCheckpoint:
        raise
    except Exception as error:  # whatever damaged bytes lead to, and whatever is no data
        why = "what it holds is not tensors alone" if isinstance(error, UnpicklingError) else first_line(error)
        raise NoCheckpoint(
            f"{path}: no checkpoint that can be read without running it ({why}); state dicts of torch.save, "
            "safetensors and .pt2 of torch.export are"
        ) from error
    if not found:
        raise NoCheckpoint(f"{path}: holds no tensors by name; a state dict is needed")
    yield found


def read(tensors: Tensors, names: Sequence[str], form: str = "plain") -> list[Tensor]:
    """The tensors of which a weight is the product, all of the first one's shape.

    Args:
        tensors: of an open file.
        names: of the parts that the weight is made of.
        form: how it is, see `layers.Stored`.

    Raises:
        NoCheckpoint: one of them cannot be read, or does not fit.
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
    """The marks (O, *rest) in a bitmask (O, bytes), the lowest bit first, as numbers."""
    bits = bitmask.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(1)[:, : int(shape[1:].prod())].reshape(shape.tolist()).view(torch.int8)


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < size


def _safetensors(path: Path) -> Tensors:
    from safetensors import safe_open

    file = safe_open(path, "pt")
    return {name: lambda name=name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _torch(path: Path) -> Tensors:
    """Of torch.save: mapped into memory, not read, where the file is of the zipped format."""
    zipped = zipfile.is_zipfile(path)
    known = {"builtins.dict": dict, "collections.defaultdict": defaultdict}
    inert = [(_Inert, name) for name in get_unsafe_globals_in_checkpoint(path) if name not in known] if zipped else []
    with safe_globals([*inert, *((each, name) for name, each in known.items())]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own deprecations
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    return {name: lambda each=each: each for name, each in named(content).items()}


def named(content: Any) -> dict[str, Tensor]:
    """The tensors in nested dicts: of the first key that programs save weights under, otherwise all of them."""
    if not holds_tensors(content):
        return {}
    chosen = next((name for name in CONTAINERS if holds_tensors(content.get(name))), None)
    if chosen:
        return named(content[chosen])
    found = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    nested = [name for name in content if holds_tensors(content[name]) and not str(name).startswith("optim")]
    for name in nested:
        found |= {f"{name}.{below}": value for below, value in named(content[name]).items()}
    return found


def _exported_before(path: Path) -> Tensors:
    with zipfile.ZipFile(path) as archive:
        (member,) = set(OLD_PROGRAMS) & {*archive.namelist()}
        content = torch.load(BytesIO(archive.read(member)), map_location="cpu", weights_only=True)
    return {name: lambda each=each: each for name, each in named(content).items()}


def _exported(path: Path) -> Tensors:
    """Of torch.export.save: an archive of raw bytes beside their sizes, which are all that is read of it."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch warns of memory that cannot be written
        found: Tensors = {}
        for config in (name for name in archive.namelist() if name.endswith("_weights_config.json")):
            for name, about in json.loads(archive.read(config))["config"].items():
                member = archive.getinfo(f"{config.rpartition('/')[0]}/{about['path_name']}")
                if about["use_pickle"] or member.compress_type != zipfile.ZIP_STORED or not member.file_size:
                    continue  # subclasses of tensors, and what has no elements
                start = _start(file, member)
                found[name] = lambda start=start, meta=about["tensor_meta"]: _raw(mapped, start, meta)
    return found


def _start(file: Any, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose lengths are its own."""
    file.seek(member.header_offset)
    header = file.read(30)
    return member.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _raw(mapped: mmap.mmap, start: int, meta: dict[str, Any]) -> Tensor:
    sizes, strides = ([each["as_int"] for each in meta[name]] for name in ("sizes", "strides"))
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None or 0 in sizes:
        return torch.empty(0)
    offset = meta["storage_offset"]["as_int"]
    length = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    flat = torch.frombuffer(mapped, dtype=dtype, count=length, offset=start + offset * dtype.itemsize)
    return flat.as_strided(sizes, strides)
