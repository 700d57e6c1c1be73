"""Images in memory, batched without workers.

Order and augmentation are pure functions of (seed, epoch, step), so that resuming replays nothing and
all arms of a comparison see the same batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from midstate.common import checks
from midstate.common.seeds import seed_for


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), float32 and normalised, with labels (N,), int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return tuple(self.images.shape[1:])

    @property
    def skipped(self) -> None:
        """Nothing is read from files later, so no image can be skipped."""

    def check(self, name: str, num_classes: int) -> None:
        """Refuse a split without an image, images without a label or the other way round, labels out of range.

        Raises:
            ValueError: the split is refused.
        """
        if not len(self.images) or len(self.images) != len(self.labels):
            raise ValueError(f"the {name} split has {len(self.images)} images and {len(self.labels)} labels")
        check_labels(name, self.labels, num_classes)

    def to(self, device: torch.device) -> "Split":
        """Move to a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def first(self, count: int) -> "Split":
        """The first `count` images (splits are shuffled when they are made)."""
        return Split(self.images[:count], self.labels[:count])

    def batches(self, size: int, rank: int = 0, num_ranks: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images in order, in batches; of several processes each takes every `num_ranks`-th batch."""
        parts = zip(self.images.split(size), self.labels.split(size), strict=True)
        return islice(parts, rank, None, num_ranks)

    def training(
        self,
        batch_size: int,
        augmentation: "Augmentation",
        seed: int,
        max_steps: int | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> "Batches":
        """Return the training batches."""
        return Batches(self, batch_size, augmentation, seed, max_steps, rank, num_ranks)


class Shuffled:
    """Batches of training images, in memory or in files; an incomplete last batch is left out.

    Each of several processes takes its part of every batch: together they see the batches of a single process.
    """

    def __init__(
        self,
        split: Any,  # Split or Stored
        batch_size: int,
        augmentation: Any,
        seed: int,
        max_steps: int | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.split, self.augmentation, self.seed = split, augmentation, seed
        self.rank, self.num_ranks = rank, num_ranks
        self.batch_size = min(batch_size, len(split))
        whole = len(split) // self.batch_size
        self.steps_per_epoch = min(whole, max_steps or whole)

    def steps(self, epoch: int, first_step: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the steps of an epoch, each with the positions of its batch's images: a function of (seed, epoch)."""
        generator = Generator().manual_seed(seed_for(self.seed, "order", epoch))
        order = torch.randperm(len(self.split), generator=generator)
        for step in range(first_step, self.steps_per_epoch):
            yield step, order[step * self.batch_size : (step + 1) * self.batch_size]

    def part(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch."""
        return batch.tensor_split(self.num_ranks)[self.rank]


class Batches(Shuffled):
    """Shuffled, augmented training batches of images in memory."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch from `first_step` (counted within the epoch) on."""
        for step, positions in self.steps(epoch, first_step):
            chosen = positions.to(self.split.labels.device)
            draws = Generator().manual_seed(seed_for(self.seed, "augmentation", epoch, step))
            images = self.augmentation(self.split.images[chosen], draws)
            yield self.part(images), self.part(self.split.labels[chosen])

    def close(self) -> None:
        """Do nothing: there are no worker processes."""


def hold_out(order: Tensor, labels: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Divide training images into those held out for validation and those kept, both in the given order.

    The first `count` are held out. If a class would lose its last training image by that, each class gives its share
    instead, and keeps at least one.

    Args:
        order: (N,), int64: indices of all images, shuffled.
        labels: (N,), int64, by index; None if only decoding would reveal them.
        count: number of images to hold out, at most `most_held_out`.
    """
    held = torch.zeros(len(order), dtype=torch.bool)
    held[:count] = True
    if labels is not None and len(labels[order[~held]].unique()) < len(labels.unique()):
        held = _share_of_each(labels[order], count)
    return order[held], order[~held]


def most_held_out(labels: Tensor | None, num_images: int) -> int:
    """Maximum number of training images to hold out so that each class keeps one (without labels: one is kept)."""
    return num_images - (1 if labels is None else len(labels.unique()))


def _share_of_each(labels: Tensor, count: int) -> Tensor:
    """Select (N,) the first images of each class to hold out, as many as its share (largest remainder method)."""
    _, numbers, sizes = labels.unique(return_inverse=True, return_counts=True)
    chosen, room = sizes * count // len(labels), sizes - 1
    most_first = (sizes * count % len(labels)).argsort(descending=True, stable=True).tolist()
    left = count - int(chosen.sum())
    while left:
        for number in most_first:
            if left and chosen[number] < room[number]:
                chosen[number] += 1
                left -= 1
    return _rank_in_class(numbers, sizes) < chosen[numbers]


def _rank_in_class(numbers: Tensor, sizes: Tensor) -> Tensor:
    """Count for each image (N,) the earlier images of its class; `sizes` are the numbers of images of the classes."""
    by_class = numbers.argsort(stable=True)
    rank = torch.empty_like(numbers)
    rank[by_class] = torch.arange(len(numbers)) - (sizes.cumsum(0) - sizes)[numbers[by_class]]
    return rank


def stratified(labels: Tensor, generator: Generator) -> Tensor:
    """A random order of all images in which every consecutive part has all classes about in proportion.

    Args:
        labels: (N,), int64.
        generator: CPU generator of the draw.
    """
    order = torch.randperm(len(labels), generator=generator)
    _, numbers, sizes = labels[order].unique(return_inverse=True, return_counts=True)
    place = (_rank_in_class(numbers, sizes).double() + 0.5) / sizes[numbers]  # relative rank in its class, 0 to 1
    return order[place.argsort(stable=True)]


def check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    """Refuse labels (N,) that are not from 0 to num_classes - 1.

    Raises:
        ValueError: a label is out of range.
    """
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"the {name} split has labels from {low} to {high}; {num_classes} classes are 0 to {num_classes - 1}"
        )


@dataclass(frozen=True)
class Augmentation:
    """Random crop after zero padding, and horizontal flip, drawn per image.

    Args:
        crop_padding: pixels added on each side before cropping back; 0: no crop.
        flip: mirror half of the images.
    """

    crop_padding: int
    flip: bool

    def __post_init__(self) -> None:
        checks.integer("crop_padding", self.crop_padding, 0)
        checks.boolean("flip", self.flip)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return augmented images (N, C, H, W); the draws come from a CPU generator."""
        pad, (count, _, height, width) = self.crop_padding, images.shape
        if pad:
            top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator).to(images.device)
            rows = top + torch.arange(height, device=images.device)  # (N, H)
            columns = left + torch.arange(width, device=images.device)  # (N, W)
            padded = F.pad(images, (pad,) * 4)
            index = torch.arange(count, device=images.device)[:, None, None]
            # Advanced indices around a slice put the channel last: (N, H, W, C).
            images = padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if self.flip:
            mirrored = torch.rand(count, 1, 1, 1, generator=generator).to(images.device) < 0.5
            images = torch.where(mirrored, images.flip(-1), images)
        return images.contiguous()


def check_augmentation(augmentation: object) -> None:
    """Refuse an object that cannot augment a batch of images in memory.

    Raises:
        ValueError: it is not an `Augmentation`.
    """
    if not isinstance(augmentation, Augmentation):
        raise ValueError(
            f"augmentation={augmentation!r}: must be midstate.data.Augmentation; data/augmentation is for images that "
            "lie in files"
        )
