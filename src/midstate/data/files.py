"""Base class of the data sets whose images lie in files."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from midstate.common import checks
from midstate.common.seeds import seed_for
from midstate.data.augmentations import Crops, Preparation, TimmAugmentation
from midstate.data.images import Images
from midstate.data.reading import Reading
from midstate.data.splits import hold_out, most_held_out
from midstate.data.stored import Stored

log = logging.getLogger(__name__)
SMALL_SHARE = 0.2  # of the training images, held out where `num_validation` are too many


@dataclass(frozen=True, kw_only=True)
class Files:
    """Settings of a set that is read from files.

    Args:
        augmentation: of training images.
        root: folder of the set.
        num_classes: labels run from 0 to num_classes - 1; None: as many as there are.
        num_validation: training images held out if there is no validation split; a fifth of the training images if
            so many cannot be held out.
        seed: of the held-out choice.
        size: height and width of the images that the network reads.
        resize: length of the shorter side before evaluation crops the centre.
        mean: mean of each channel, for values from 0 to 1.
        std: standard deviation of each channel, likewise.
        interpolation: bilinear or bicubic.
        on_error: for a damaged image: fail, or skip.
        workers: processes that decode; 0: none; None: one a core, 8 at most.
        prefetch: batches that each worker holds ready.
    """

    augmentation: Crops | TimmAugmentation
    root: str
    num_classes: int | None = None
    num_validation: int = 1000
    seed: int = 0
    size: int = 224
    resize: int = 256
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    on_error: str = "fail"
    workers: int | None = None
    prefetch: int = 2
    embedded = False

    def __post_init__(self) -> None:
        if not isinstance(self.augmentation, Crops | TimmAugmentation):
            raise ValueError(
                f"augmentation={self.augmentation!r}: must be one of data/augmentation (crops, lighting, timm)"
            )
        checks.text("root", self.root)
        if self.num_classes is not None:
            checks.integer("num_classes", self.num_classes, 2)
        checks.integer("num_validation", self.num_validation, 1)
        checks.integer("seed", self.seed, 0)
        self._preparation(), self._reading()  # check their settings

    @property
    def folder(self) -> Path:
        """The root as a path, a leading ~ replaced by the home folder."""
        return Path(os.path.expanduser(self.root))

    def _preparation(self) -> Preparation:
        return Preparation(self.size, self.resize, self.mean, self.std, self.interpolation)

    def _reading(self) -> Reading:
        return Reading(self.on_error, self.workers, self.prefetch)

    def _images(self, train: Any, validation: Any | None, test: Any, num_classes: int) -> Images:
        """Make the splits from their sources; without a validation source some training images are held out.

        Raises:
            ValueError: no image can be held out, or timm does not know the augmentation.
        """
        preparation, reading = self._preparation(), replace(self._reading(), num_classes=num_classes)
        self.augmentation.transform(preparation)
        kept = _order(len(train), self.seed, "train")
        if validation is None:
            (held_out, kept), validation = self._hold_out(kept, _labels(train)), train
        else:
            held_out = _order(len(validation), self.seed, "validation")
        splits = ((train, kept), (validation, held_out), (test, torch.arange(len(test))))
        images = Images(
            *(Stored(source, indices, _labels(source, indices), preparation, reading) for source, indices in splits),
            num_classes=num_classes,
        )
        log.info(
            f"data: {len(images.train):,} training, {len(images.validation):,} validation and {len(images.test):,} "
            f"test images of {num_classes:,} classes; photographs are turned as their EXIF data say"
        )
        return images

    def _hold_out(self, order: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Divide indices into those held out for validation and the rest; of a small set a share is held out.

        Raises:
            ValueError: every class has one image only.
        """
        count, most = self.num_validation, most_held_out(labels, len(order))
        if most < 1:
            raise ValueError(
                f"num_validation={count}: none of the {len(order)} training images can be held out, for each class has "
                "one only; name a folder or split with data.validation"
            )
        if count > most:
            count = min(most, max(1, round(len(order) * SMALL_SHARE)))
            log.warning(
                f"warning: data.num_validation={self.num_validation}: cannot be held out of {len(order)} training "
                f"images, so that each class keeps one; {count} are"
            )
        elif 2 * count > len(order):
            log.warning(
                f"warning: data.num_validation={count}: more than half of the {len(order)} training images are held out"
            )
        return hold_out(order, labels, count)


def _order(count: int, seed: int, name: str) -> Tensor:
    """All indices in an order drawn from a seed, so that the first are a fair sample."""
    return torch.randperm(count, generator=Generator().manual_seed(seed_for(seed, "order", name)))


def _labels(source: Any, indices: Tensor | None = None) -> Tensor | None:
    targets = getattr(source, "targets", None)
    if targets is None:
        return None
    labels = torch.as_tensor(targets, dtype=torch.int64)
    return labels if indices is None else labels[indices]
