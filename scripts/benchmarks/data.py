"""data: batches of the device-resident loader, beside torch's DataLoader with the same augmentation.

Both shuffle, crop from a zero border and mirror; images a second, and the time of a batch as a share of a training step
of a network that is usual for such images.
"""

import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.common import prepared, timed, wait
from midstate.engine.session import Session
from midstate.engine.step import train_step

# Data set and the network whose step it feeds.
CASES = {
    "digits, 1x8x8": ("data=digits", "model=resnet8", "trainer.batch_size=64"),
    "clutter, 1x16x16": ("data=clutter", "model=resnet8", "trainer.batch_size=64"),
    "CIFAR's size, 3x32x32": (
        f"trainer.threads={os.cpu_count()}",
        "data=fake",
        "data.num_train=10000",
        "model=resnet18",
        "trainer.batch_size=64",
    ),
}
CROP = ("data.augmentation.crop_padding=4", "data.augmentation.flip=true", "pruner=dense", "logger=none")
NUM_BATCHES = 15  # nearly as many as an epoch of digits has


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a data set."""
    return [_row(name, prepared(*overrides, *CROP), repeats) for name, overrides in CASES.items()]


class _Augmented(Dataset):
    """A split as a data set of torch, one image at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose([v2.RandomCrop(images.shape[-1], padding=4), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def _row(name: str, session: Session, repeats: int) -> dict[str, Any]:
    split, size = session.data.train, session.batches.batch_size
    dataset = _Augmented(split.images.cpu(), split.labels.cpu())
    loaders = {
        workers: DataLoader(dataset, size, shuffle=True, drop_last=True, num_workers=workers) for workers in (0, 2)
    }
    ways: dict[str, Callable[[], Iterator]] = {
        "ours": lambda: session.batches.epoch(0),
        "DataLoader, no workers": lambda: iter(loaders[0]),
        "DataLoader, 2 workers": lambda: iter(loaders[2]),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    steps: list[float] = []
    session.model.train()
    images, labels = next(session.batches.epoch(0))
    for _ in range(repeats):
        for way, begin in ways.items():
            seconds[way].append(_seconds_a_batch(begin(), split.images.device))
        train_step(session, images, labels)  # not timed: caches are cold
        steps += [timed(lambda: train_step(session, images, labels)) for _ in range(3)]
    ours = median(seconds["ours"])
    return {
        "data": name,
        **{f"{way} (images/s)": round(size / median(taken)) for way, taken in seconds.items()},
        "times faster": round(min(median(seconds[way]) for way in list(ways)[1:]) / ours, 1),
        "share of a step (%)": round(100 * ours / median(steps), 2),
    }


def _seconds_a_batch(batches: Iterator, device: torch.device) -> float:
    next(batches)  # not timed: workers start with the first batch
    wait()
    started, count = time.perf_counter(), 0
    for images, _ in islice(batches, NUM_BATCHES - 1):
        images.to(device)
        count += 1
    wait()
    return (time.perf_counter() - started) / count
