"""A loaded data set: three splits, in memory or in files."""

from dataclasses import dataclass, replace

import torch

from midstate.data.splits import Split
from midstate.data.stored import Stored


@dataclass(frozen=True)
class Images:
    """A loaded data set. Train, validation, test and unused share no source image.

    Args:
        train: images to learn from.
        validation: images for every epoch's row, and for probes.
        test: images used once, at the end.
        num_classes: labels run from 0 to num_classes - 1.
        unused: images that no run sees, for measurements without the test images; None where there are none.

    Raises:
        ValueError: a split has no images, or not as many labels as images; a label is not from 0 to num_classes - 1;
            splits differ in the shape of their images.
    """

    train: Split | Stored
    validation: Split | Stored
    test: Split | Stored
    num_classes: int
    unused: Split | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test", *(() if self.unused is None else ("unused",))):
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
        unused = None if self.unused is None else self.unused.to(device)
        three = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **three, unused=unused)
