"""A loaded data set: three splits, in memory or in files."""

from dataclasses import dataclass, replace

import torch

from midstate.data.splits import Split
from midstate.data.stored import Stored


@dataclass(frozen=True)
class Images:
    """A loaded data set. Train, validation and test share no source image.

    Raises:
        ValueError: a split without an image, images without a label or the other way round, labels that are not
            from 0 to num_classes - 1, splits whose images differ in shape.
    """

    train: Split | Stored
    validation: Split | Stored
    test: Split | Stored
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            split: Split | Stored = getattr(self, name)
            split.check(name, self.num_classes)
            if split.shape != self.shape:
                raise ValueError(f"the {name} split's images are {split.shape}, and those of training {self.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return self.train.shape

    @property
    def skipped(self) -> dict[str, str] | None:
        """Damaged images that were left out so far, with the reason; None where no image lies in a file."""
        return self.train.skipped

    def to(self, device: torch.device) -> "Images":
        """Move every split to a device."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )
