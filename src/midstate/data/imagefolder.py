"""Images in folders, one a class: torchvision's ImageFolder, and ImageNet in that layout."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstate.data.files import Files
from midstate.data.loader import Images
from midstate.sparsity import checks

NAMED = 5  # folders that a message names at most


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Files):
    """Folders root/SPLIT/CLASS/IMAGE; the classes are numbered in the order of their sorted names.

    Args:
        train: folder of the training images.
        validation: folder of the validation images; None: `num_validation` training images are held out.
        test: folder of the test images.
    """

    train: str = "train"
    validation: str | None = None
    test: str = "val"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train", "test"):
            checks.text(name, getattr(self, name))
        if self.validation is not None:
            checks.text("validation", self.validation)

    def load(self) -> Images:
        """List the files; none is read.

        Raises:
            ValueError: a folder is missing or has no images, classes differ between the splits, or are not as many as
                they should be.
        """
        if not Path(self.root).is_dir():
            raise ValueError(f"root={self.root!r}: no such folder; it must hold folders of images, one a class")
        train, test = self._source("train"), self._source("test")
        validation = self._source("validation") if self.validation is not None else None
        classes = train.classes
        for name, source in (("validation", validation), ("test", test)):
            if source is not None and source.classes != classes:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: its classes are not those of {self.train!r}: "
                    + " and ".join(_differences(classes, source.classes))
                )
        if self.num_classes not in (None, len(classes)):
            raise ValueError(f"num_classes={self.num_classes}: {Path(self.root, self.train)} has {len(classes)}")
        if len(classes) < 2:
            raise ValueError(f"root={self.root!r}: {self.train!r} holds one class, {classes[0]}; two are needed")
        return self._images(train, validation, test, len(classes))

    def _source(self, name: str) -> Any:
        """List the images of a split.

        Raises:
            ValueError: see `load`.
        """
        from torchvision import datasets

        folder = Path(self.root, getattr(self, name))
        if not folder.is_dir():
            there = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
            raise ValueError(
                f"{name}={getattr(self, name)!r}: no such folder in {self.root}; there are {_some(there) or 'none'}"
            )
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if not inside:
            plain = any(datasets.folder.is_image_file(entry.name) for entry in os.scandir(folder))
            what = "images, and no folder for each class" if plain else "no folders, one for each class"
            raise ValueError(f"{name}={getattr(self, name)!r}: {folder} holds {what}")
        source = datasets.ImageFolder(str(folder), allow_empty=True)
        if empty := sorted(set(inside) - {inside[label] for label in set(source.targets)}):
            raise ValueError(f"{name}={getattr(self, name)!r}: no image in {folder} of {_some(empty)}")
        return source


def _differences(expected: list[str], found: list[str]) -> list[str]:
    """Say which classes are missing and which are too many."""
    missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    return [f"{_some(names)} {word}" for names, word in ((missing, "missing"), (more, "only there")) if names]


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
