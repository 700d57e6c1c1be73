"""scikit-learn's handwritten digits: 1,797 real 8x8 images, shipped with the library."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from midstate.data.loader import Augmentation, Images, Split, check_augmentation
from midstate.sparsity import checks

# Shares of the source digits; the rest is for training.
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.25


def source_splits(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return (images (N, 8, 8) in 0..1, labels (N,)) for train, validation and test, digits disjoint."""
    table = torch.from_numpy(_table())
    return shares(table[:, :-1].view(-1, 8, 8) / 16, table[:, -1].long(), seed)


def shares(images: Tensor, labels: Tensor, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Split images (N, ...) and labels (N,) at random into train, validation and test."""
    order = torch.randperm(len(labels), generator=Generator().manual_seed(seed))
    num_validation, num_test = int(len(labels) * VALIDATION_SHARE), int(len(labels) * TEST_SHARE)
    parts = order.split([len(labels) - num_validation - num_test, num_validation, num_test])
    return [(images[part], labels[part]) for part in parts]


def _table() -> np.ndarray:
    """One row an image, 64 pixels from 0 to 16 and the label: scikit-learn's own file.

    Importing the library only to have it read that file would take a second of every run.
    """
    found = importlib.util.find_spec("sklearn")
    file = found and Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file and file.is_file():
        return np.loadtxt(file, delimiter=",", dtype=np.float32)
    from sklearn.datasets import load_digits  # wherever it has moved; without the library, says so

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.float32)


@dataclass(frozen=True)
class Digits:
    """The digits as they are, 1x8x8, normalised by the training split's mean and deviation.

    Args:
        augmentation: of training batches.
        seed: of the split; the same for every run seed, so that all runs share one test set.
    """

    augmentation: Augmentation
    seed: int = 0
    embedded = True

    def __post_init__(self) -> None:
        check_augmentation(self.augmentation)
        checks.integer("seed", self.seed, 0)

    def load(self) -> Images:
        """Load and split."""
        sources = source_splits(self.seed)
        mean, std = sources[0][0].mean(), sources[0][0].std()
        splits = [Split(((images - mean) / std).unsqueeze(1), labels) for images, labels in sources]
        return Images(*splits, num_classes=10)
