"""Fake: random images of any shape, for benchmarks and technical checks. Nothing can be learnt."""

from dataclasses import dataclass

import torch
from torch import Generator

from midstate.common import checks
from midstate.data.images import Images
from midstate.data.splits import Augmentation, Split, check_augmentation


@dataclass(frozen=True)
class Fake:
    """Gaussian noise with random labels.

    Args:
        augmentation: of training batches.
        size: height and width.
        channels: channels.
        num_classes: labels run from 0 to num_classes - 1.
        num_train: number of training images.
        num_eval: number of validation images, and of test images.
        seed: of the images.
    """

    augmentation: Augmentation
    size: int = 32
    channels: int = 3
    num_classes: int = 10
    num_train: int = 512
    num_eval: int = 128
    seed: int = 0
    embedded = True

    def __post_init__(self) -> None:
        check_augmentation(self.augmentation)
        for name in ("size", "channels", "num_train", "num_eval"):
            checks.integer(name, getattr(self, name), 1)
        checks.integer("num_classes", self.num_classes, 2)
        checks.integer("seed", self.seed, 0)

    def load(self) -> Images:
        """Draw the three splits."""
        generator = Generator().manual_seed(self.seed)
        splits = [
            Split(
                torch.randn(count, self.channels, self.size, self.size, generator=generator),
                torch.randint(0, self.num_classes, (count,), generator=generator),
            )
            for count in (self.num_train, self.num_eval, self.num_eval)
        ]
        return Images(*splits, num_classes=self.num_classes)
