"""Decoding of one image at a time, from a file to a tensor, in the processes of a DataLoader.

The random draws for an image are a pure function of (seed, epoch, index): process and earlier images do not matter.
"""

import random
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from midstate.common.errors import first_line
from midstate.common.seeds import seed_for

# Errors that mean a damaged image; an error with an errno comes from the disk.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read.

    Args:
        name: the image's file.
        reason: the error, in one line.
        damaged: the file itself is at fault, not the disk.
    """

    name: str
    reason: str
    damaged: bool


@dataclass(frozen=True)
class Decoder(Dataset):
    """Decodes images of a split, chosen by keys.

    A key is (None, position) for evaluation and (epoch, position) for training. In training the transform's random
    draws are seeded.

    Args:
        source: gives (PIL image, label) by index.
        indices: (N,), int64: index in `source` of each image of the split, by position.
        transform: from a PIL image to a tensor.
        seed: of the random draws in training.
        replace: return the next readable image in place of a damaged one.
    """

    source: Any
    indices: Tensor
    transform: Callable[[Image.Image], Tensor]
    seed: int = 0
    replace: bool = False

    def __getitem__(self, key: tuple[int | None, int]) -> tuple[Tensor | None, int, list[Unreadable]]:
        """Return image (None: cannot be read), label (then -1), and the unreadable images met on the way."""
        epoch, position = key
        problems: list[Unreadable] = []
        for offset in range(len(self.indices) if self.replace else 1):
            image, label = self._read(int(self.indices[(position + offset) % len(self.indices)]), problems)
            if image is not None:
                seed = seed_for(self.seed, "augmentation", epoch, int(self.indices[position]))
                with nullcontext() if epoch is None else seeded(seed):
                    return self.transform(image), label, problems
            if not problems[-1].damaged:
                break
        return None, -1, problems

    def _read(self, index: int, problems: list[Unreadable]) -> tuple[Image.Image | None, int]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about damaged EXIF data, one for each image
                image, label = self.source[index]
                return to_rgb(image), int(label)  # decodes the image, unless the source has
        except _UNREADABLE as error:
            reason = "it is no image" if isinstance(error, UnidentifiedImageError) else first_line(error)
            problems.append(Unreadable(name_of(self.source, index), reason, getattr(error, "errno", None) is None))
            return None, -1


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image upright and in RGB, 8 bits a channel; 16-bit grey is scaled, where Pillow would clip it.

    The image is turned as its EXIF orientation says, and that entry is removed: a second call changes nothing.

    Raises:
        ValueError: the pixels are 32-bit integers or floats, whose value for white is unknown.
    """
    image = _upright(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} is not 8 bits a channel")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # damaged EXIF data: do not turn; damaged pixels raise an error when they are read next
        return image


def gather(items: Sequence[tuple[Tensor | None, int, list[Unreadable]]]) -> tuple[Tensor, Tensor, list[Unreadable]]:
    """Stack the readable images (N, C, H, W) and their labels (N,); collect the unreadable ones."""
    read = [(image, label) for image, label, _ in items if image is not None]
    images = torch.stack([image for image, _ in read]) if read else torch.empty(0)
    labels = torch.tensor([label for _, label in read], dtype=torch.int64)
    return images, labels, [problem for _, _, problems in items for problem in problems]


def name_of(source: Any, index: int) -> str:
    """Return the file of an image, or its index if the source does not know the file."""
    if hasattr(source, "samples"):  # torchvision's folders
        return str(source.samples[index][0])
    return str(source.name(index)) if hasattr(source, "name") else f"image {index}"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators, from which transforms draw, and restore them afterwards.

    `torch.manual_seed` is avoided: it would seed GPUs, too.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
