"""Splits whose images are decoded on demand, by processes that run beside the training.

They have the methods of `midstate.data.Split`, with the same guarantee: order and augmentation are pure functions of
the seed, the epoch and the image, so that neither the number of processes nor a stop in between changes anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from midstate.common.errors import RunFailed
from midstate.data.augmentations import Preparation
from midstate.data.decoding import Decoder
from midstate.data.reading import Reading
from midstate.data.splits import Shuffled, Split, check_labels

PIECE = 50  # images of evaluation that a worker hands over at once: few, as waiting images fill shared memory
Key = tuple[int | None, int]


@dataclass(frozen=True)
class Stored:
    """Images that lie in files, or wherever a source reads them from.

    Args:
        source: gives (PIL image, label) by index.
        indices: (N,), int64: the images of this split.
        labels: (N,), int64; None if only decoding would reveal them.
        preparation: how an image becomes a tensor.
        reading: how files are read.
    """

    source: Any
    indices: Tensor
    labels: Tensor | None
    preparation: Preparation
    reading: Reading = field(default_factory=Reading)
    _first: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return 3, self.preparation.size, self.preparation.size

    @property
    def skipped(self) -> dict[str, str]:
        """Damaged images of all splits met so far, with the reason."""
        return self.reading.skipped

    def check(self, name: str, num_classes: int) -> None:
        """Refuse a split without an image, or with labels that are not from 0 to num_classes - 1.

        Raises:
            ValueError: the split is refused.
        """
        if not len(self):
            raise ValueError(f"the {name} split has no images")
        if self.labels is not None:
            check_labels(name, self.labels, num_classes)

    def to(self, device: torch.device) -> "Stored":
        """Return a split whose batches are on a device."""
        return replace(self, reading=replace(self.reading, device=device), _first={})

    def first(self, count: int) -> Any:
        """The first `count` images that can be read, decoded (splits are shuffled when they are made).

        Raises:
            RunFailed: an image cannot be read.
        """
        if count not in self._first:  # cached: both pruner and probes ask for them
            found, start, wanted = [], 0, min(count, len(self))
            while wanted > 0 and start < len(self):
                found += self._decoded([range(start, min(start + wanted, len(self)))])
                start, wanted = start + wanted, min(count, len(self)) - sum(len(labels) for _, labels in found)
            if not found:
                raise RunFailed("no image of a split can be read")
            self._first[count] = Split(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        return self._first[count]

    def batches(self, size: int, rank: int = 0, num_ranks: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images that can be read, in batches; of several processes each takes every `num_ranks`-th batch.

        Raises:
            RunFailed: an image cannot be read.
        """
        starts = range(rank * size, len(self), num_ranks * size)
        yield from self._decoded([range(start, min(start + size, len(self))) for start in starts])

    def training(
        self,
        batch_size: int,
        augmentation: Any,
        seed: int,
        max_steps: int | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> "StoredBatches":
        """Return the training batches."""
        return StoredBatches(self, batch_size, augmentation, seed, max_steps, rank, num_ranks)

    def _decoded(self, batches: Sequence[range]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images and labels of batches of positions, prepared for evaluation."""
        pieces = [batch[start : start + PIECE] for batch in batches for start in range(0, len(batch), PIECE)]
        decoder = Decoder(self.source, self.indices, self.preparation.evaluation())
        keys = [[(None, position) for position in piece] for piece in pieces]
        read = self.reading.images(self.reading.loader(decoder, keys, most=max(0, len(pieces) - 1)))
        for batch in batches:
            found = [next(read) for _ in range(0, len(batch), PIECE)]
            found = [pair for pair in found if len(pair[1])]
            if found:
                yield tuple(torch.cat(parts) for parts in zip(*found, strict=True))


class _Keys:
    """This process's part of the batches of an epoch, as keys."""

    def __init__(self, batches: "StoredBatches") -> None:
        self.batches, self.epoch, self.first_step = batches, 0, 0

    def __len__(self) -> int:
        return self.batches.steps_per_epoch - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        for _, positions in self.batches.steps(self.epoch, self.first_step):
            yield [(self.epoch, position) for position in self.batches.part(positions).tolist()]


class StoredBatches(Shuffled):
    """Shuffled, augmented training batches of images in files.

    The processes that decode are started once and kept over epochs, until `close`.
    """

    def __init__(self, split: Stored, *arguments: Any, **options: Any) -> None:
        super().__init__(split, *arguments, **options)
        self._keys, self._loader = _Keys(self), None

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch from `first_step` (counted within the epoch) on.

        Raises:
            RunFailed: an image cannot be read.
        """
        split, reading = self.split, self.split.reading
        if self._loader is None:
            transform = self.augmentation.transform(split.preparation)
            decoder = Decoder(split.source, split.indices, transform, self.seed, reading.on_error == "skip")
            self._loader = reading.loader(decoder, self._keys, lasting=True)
        self._keys.epoch, self._keys.first_step = epoch, first_step
        num_images = len(self.part(torch.arange(self.batch_size)))
        whole = False
        try:
            for images, labels in reading.images(self._loader):
                if len(labels) < num_images:
                    raise RunFailed("no image of the train split can be read")
                yield images, labels
            whole = True
        finally:
            if not whole:  # batches that workers hold ready are of no use any more
                self.close()

    def close(self) -> None:
        """End the processes that decode; the next epoch starts them anew."""
        if self._loader is not None and (iterator := self._loader._iterator) is not None:
            iterator._shutdown_workers()
        self._loader = None
