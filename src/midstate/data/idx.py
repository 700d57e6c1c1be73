"""MNIST's own format (idx), plain or gzipped: a magic number, the sizes, then one byte a value."""

import gzip
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

UNSIGNED_BYTES = 0x800  # data type in the magic number, whose last byte is the number of dimensions


def find(folders: Sequence[Path], name: str) -> Path | None:
    """The first file called `name` or `name`.gz in the folders; None if there is none."""
    paths = (folder / each for folder in folders for each in (name, f"{name}.gz"))
    return next((path for path in paths if path.is_file()), None)


def read(path: Path, num_dimensions: int) -> Tensor:
    """Read a file's values, uint8, in the shape that its header gives.

    Raises:
        ValueError: the file cannot be read, is cut off or too long, or is of another kind.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged, or not to be read ({error})") from error
    start = 4 * (1 + num_dimensions)
    magic, *sizes = np.frombuffer(data[:start].ljust(start, b"\0"), ">u4").tolist()
    if magic != UNSIGNED_BYTES + num_dimensions:
        raise ValueError(
            f"{path}: its magic number is {magic}; a file of bytes in {num_dimensions} dimensions begins with "
            f"{UNSIGNED_BYTES + num_dimensions}"
        )
    if len(data) != start + prod(sizes):
        short = "cut off" if len(data) < start + prod(sizes) else "too long"
        raise ValueError(f"{path}: {short}; its header tells of {start + prod(sizes):,} bytes, it has {len(data):,}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).copy()).view(*sizes)
