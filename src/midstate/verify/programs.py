"""Tensors of a program that torch.export.save wrote; the program itself is not loaded."""

import json
import mmap
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midstate.common.state_dicts import named_tensors

BEFORE = ("serialized_state_dict.pt", "serialized_state_dict.json")  # of torch.export.save up to torch 2.8
# torch.export's numbers for dtypes; those that are not here are no weights.
DTYPES = {2: torch.int8, 6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}
DTYPES |= {29: torch.float8_e4m3fn, 30: torch.float8_e5m2, 1: torch.uint8, 12: torch.bool}


def tensors_before(path: Path) -> dict[str, Callable[[], Tensor]]:
    """The tensors of a file of torch 2.8 or older: a state dict in an archive."""
    with zipfile.ZipFile(path) as archive:
        (member,) = set(BEFORE) & {*archive.namelist()}
        content = torch.load(BytesIO(archive.read(member)), map_location="cpu", weights_only=True)
    return {name: lambda each=each: each for name, each in named_tensors(content).items()}


def tensors(path: Path) -> dict[str, Callable[[], Tensor]]:
    """The tensors of a torch.export.save archive: only raw bytes and their sizes, strides and dtypes are read."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch warns about read-only memory
        found: dict[str, Callable[[], Tensor]] = {}
        for config in (name for name in archive.namelist() if name.endswith("_weights_config.json")):
            for name, about in json.loads(archive.read(config))["config"].items():
                member = archive.getinfo(f"{config.rpartition('/')[0]}/{about['path_name']}")
                if about["use_pickle"] or member.compress_type != zipfile.ZIP_STORED or not member.file_size:
                    continue  # skip pickled subclasses, compressed and empty tensors
                start = _start(file, member)
                found[name] = lambda start=start, meta=about["tensor_meta"]: _raw(mapped, start, meta)
    return found


def _start(file: Any, member: zipfile.ZipInfo) -> int:
    """Offset of a member's bytes: after its local header, whose lengths can differ from those of the directory."""
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
