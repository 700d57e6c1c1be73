"""MNIST, Fashion-MNIST and KMNIST, held in memory: training uses a part of the 60,000 training images of 28x28."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Generator, Tensor
from torch.nn import functional as F

from midstate.common import checks
from midstate.common.errors import first_line
from midstate.data import idx
from midstate.data.downloads import removing_what_is_empty
from midstate.data.images import Images
from midstate.data.splits import Augmentation, Split, check_augmentation, check_labels, stratified

log = logging.getLogger(__name__)
NAMES = ("MNIST", "FashionMNIST", "KMNIST")  # torchvision's
SIDE, NUM_CLASSES, PUBLISHED = 28, 10, {"train": 60_000, "t10k": 10_000}
SIZES = (28, 14, 7)
KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
FILES = tuple(f"{part}-{kind}" for part in PUBLISHED for kind in KINDS)
INSTALLED = {"FashionMNIST": Path("/usr/share/datasets/fashion-mnist")}  # where Debian's package puts the files


@dataclass(frozen=True)
class MNIST:
    """One of the sets, normalised by the mean and standard deviation of all pixels of the training split.

    Training, validation and unused images are disjoint parts of the published training images, drawn from a seed with
    all classes in proportion; the published test images are the test split.

    Args:
        augmentation: of training batches.
        name: MNIST, FashionMNIST or KMNIST.
        root: folder that holds the four files (plain or .gz), or torchvision's folders `name`/raw or raw; a leading ~
            is the home folder. If it holds none of the files, those of Debian's package are used where installed.
        download: fetch the files if one is missing.
        num_train: number of training images.
        num_validation: number of validation images.
        num_unused: number of images in `Images.unused`, which no run sees, for measurements without test images.
        size: height and width: 28, or 14 or 7, by averaging 2x2 or 4x4 pixels.
        seed: of the draw of the parts; the same for every run seed.
    """

    augmentation: Augmentation
    name: str
    root: str
    download: bool = True
    num_train: int = 12_000
    num_validation: int = 2_000
    num_unused: int = 10_000
    size: int = 28
    seed: int = 0
    embedded = True  # as small as embedded data: `threads: auto` is 1

    def __post_init__(self) -> None:
        check_augmentation(self.augmentation)
        checks.one_of("name", self.name, NAMES)
        checks.text("root", self.root)
        checks.boolean("download", self.download)
        checks.integer("num_train", self.num_train, 1)
        checks.integer("num_validation", self.num_validation, 1)
        checks.integer("num_unused", self.num_unused, 0)
        checks.integer("seed", self.seed, 0)
        if isinstance(self.size, bool) or self.size not in SIZES:
            raise ValueError(f"size={self.size!r}: must be one of {', '.join(map(str, SIZES))}")

    def load(self) -> Images:
        """Read the files and divide them.

        Raises:
            ValueError: a file is missing, damaged or does not fit the others, or has too few images.
        """
        (images, labels), (test_images, test_labels) = self._read("train"), self._read("t10k")
        counts = (self.num_validation, self.num_unused, self.num_train)
        if sum(counts) > len(labels):
            raise ValueError(
                f"num_train={self.num_train}: with num_validation={self.num_validation} and num_unused="
                f"{self.num_unused} that is {sum(counts):,} images, and {self.name} has {len(labels):,} for training"
            )
        order = stratified(labels, Generator().manual_seed(self.seed))[: sum(counts)]
        validation, unused, train = ((self._averaged(images[part]), labels[part]) for part in order.split(counts))
        mean, std = train[0].mean(), train[0].std()
        splits = (train, validation, (self._averaged(test_images), test_labels), unused)
        *three, left = (Split((pixels - mean) / std, classes) for pixels, classes in splits)
        return Images(*three, num_classes=NUM_CLASSES, unused=left if self.num_unused else None)

    def _averaged(self, images: Tensor) -> Tensor:
        """Bytes (N, 28, 28) to values from 0 to 1, (N, 1, size, size)."""
        return F.avg_pool2d(images.unsqueeze(1).float() / 255, SIDE // self.size)

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        """Images (N, 28, 28), uint8, and labels (N,), int64, of `train` or `t10k`."""
        paths = [self._path(f"{part}-{kind}") for kind in KINDS]
        images, labels = idx.read(paths[0], 3), idx.read(paths[1], 1).long()
        if images.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"{paths[0]}: its images are {'x'.join(map(str, images.shape[1:]))}, not {SIDE}x{SIDE}")
        if not len(images) or len(images) != len(labels):
            raise ValueError(f"{paths[1]}: has {len(labels):,} labels, and {paths[0].name} {len(images):,} images")
        check_labels(f"{part} ({paths[1]})", labels, NUM_CLASSES)
        if len(images) != PUBLISHED[part]:
            log.warning(
                f"warning: {paths[0]} has {len(images):,} images and is not the published set of {PUBLISHED[part]:,}; "
                "the identity of a run does not tell them apart"
            )
        return images, labels

    def _path(self, name: str) -> Path:
        """Find a file, or fetch all that are missing."""
        root = Path(os.path.expanduser(self.root))
        folders = [root / self.name / "raw", root / "raw", root]
        installed = INSTALLED.get(self.name)
        if installed and any(idx.find(folders, each) for each in FILES):
            installed = None  # files of two folders must not be mixed
        if found := idx.find(folders if installed is None else [installed], name):
            return found
        missing = f"root={self.root!r}: {self.name}'s file {name} (or {name}.gz) is missing there"
        if not self.download:
            raise ValueError(f"{missing}; put the four files there, or set data.download=true")
        self._fetch(root, missing)
        if found := idx.find(folders, name):
            return found
        raise ValueError(missing)

    def _fetch(self, root: Path, missing: str) -> None:
        from torchvision import datasets

        try:
            with removing_what_is_empty(root):
                getattr(datasets, self.name)(root, download=True)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"{missing}, and could not be fetched ({first_line(error)}); put the four files there"
            ) from error
