"""Images in folders, one a class: torchvision's ImageFolder, and ImageNet in that layout."""

import os
from dataclasses import dataclass
from typing import Any

from midstate.common import checks
from midstate.data.files import Files
from midstate.data.folders import FolderImages, check_splits, split_folder
from midstate.data.images import Images


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Files):
    """Folders root/SPLIT/CLASS/IMAGE; the classes are numbered in the order of their sorted names.

    Files and folders whose name begins with a dot are left out; so are files with another extension, with a warning.

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
        """List the files without reading an image.

        Raises:
            ValueError: a folder is missing or has no images, splits share an image, their classes differ, or the
                number of classes is below 2 or not `num_classes`.
        """
        names = [name for name in ("train", "validation", "test") if getattr(self, name) is not None]
        sources = {name: self._source(name) for name in names}
        check_splits(self, sources)
        num_classes = len(sources["train"].class_to_idx)
        if self.num_classes not in (None, num_classes):
            raise ValueError(f"num_classes={self.num_classes}: {sources['train'].folder} has {num_classes}")
        return self._images(sources["train"], sources.get("validation"), sources["test"], num_classes)

    def _source(self, name: str) -> Any:
        """List the images of a split.

        Raises:
            ValueError: see `load`.
        """
        from torchvision.datasets.folder import IMG_EXTENSIONS, is_image_file, make_dataset

        folder = split_folder(self.folder, name, getattr(self, name))
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
        if not inside:
            plain = any(is_image_file(entry.name) for entry in os.scandir(folder))
            what = "images, and no folder for each class" if plain else "no folders, one for each class"
            raise ValueError(f"{name}={getattr(self, name)!r}: {folder} holds {what}")
        classes = {entry: number for number, entry in enumerate(inside)}
        samples = make_dataset(str(folder), classes, IMG_EXTENSIONS, allow_empty=True)
        return FolderImages(str(folder), samples, classes, IMG_EXTENSIONS)
