"""CIFAR-10 and CIFAR-100 through torchvision, held in memory; by default 5,000 training images are for validation."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from midstate.common import checks
from midstate.data.downloads import removing_what_is_empty
from midstate.data.images import Images
from midstate.data.splits import Augmentation, Split, check_augmentation, hold_out, most_held_out


@dataclass(frozen=True)
class CIFAR:
    """CIFAR, normalised per channel by mean and standard deviation of all training images, the held-out ones too.

    Args:
        augmentation: of training batches.
        num_classes: 10 or 100.
        root: folder that holds (or will hold) torchvision's files; a leading ~ is the home folder.
        download: fetch missing files.
        num_validation: training images held out for validation.
        seed: of the held-out choice.
    """

    augmentation: Augmentation
    num_classes: int
    root: str
    download: bool = True
    num_validation: int = 5000
    seed: int = 0
    embedded = False

    def __post_init__(self) -> None:
        check_augmentation(self.augmentation)
        if self.num_classes not in (10, 100):
            raise ValueError(f"num_classes={self.num_classes!r}: must be 10 or 100")
        checks.text("root", self.root)
        checks.boolean("download", self.download)
        checks.integer("num_validation", self.num_validation, 1)
        checks.integer("seed", self.seed, 0)

    def load(self) -> Images:
        """Read the files.

        Raises:
            ValueError: files are missing or damaged, the download failed, or too many images are held out.
        """
        train, test = self._read(train=True), self._read(train=False)
        if self.num_validation > most_held_out(train.labels, len(train)):
            raise ValueError(
                f"num_validation={self.num_validation}: must leave one of each class of the {len(train)} images"
            )
        mean = train.images.mean((0, 2, 3), keepdim=True)
        std = train.images.std((0, 2, 3), keepdim=True)
        train, test = (Split((split.images - mean) / std, split.labels) for split in (train, test))
        order = torch.randperm(len(train), generator=Generator().manual_seed(self.seed))
        held_out, kept = hold_out(order, train.labels, self.num_validation)
        return Images(
            Split(train.images[kept], train.labels[kept]),
            Split(train.images[held_out], train.labels[held_out]),
            test,
            self.num_classes,
        )

    def _read(self, train: bool) -> Split:
        from torchvision import datasets

        kind = datasets.CIFAR10 if self.num_classes == 10 else datasets.CIFAR100
        root = Path(os.path.expanduser(self.root))
        if not self.download and not root.is_dir():
            raise ValueError(
                f"root={self.root!r}: no such folder; put torchvision's {kind.__name__} files "
                "there or set data.download=true"
            )
        try:
            with removing_what_is_empty(root) if self.download else nullcontext():
                data = kind(root, train=train, download=self.download)
        except (RuntimeError, OSError) as error:
            tried = f" and could not be fetched ({error})" if self.download else ", and data.download=false"
            raise ValueError(
                f"root={self.root!r}: {kind.__name__} is missing or damaged there{tried}; put torchvision's files into "
                "that folder"
            ) from error
        images: Tensor = torch.as_tensor(data.data).permute(0, 3, 1, 2).float() / 255
        return Split(images.contiguous(), torch.as_tensor(data.targets))
