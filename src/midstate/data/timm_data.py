"""Any data set that timm opens by name and that has an index: folders, torchvision's sets, Hugging Face's."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from midstate.common import checks
from midstate.common.errors import first_line
from midstate.data.decoding import to_rgb
from midstate.data.downloads import removing_what_is_empty
from midstate.data.files import Files
from midstate.data.folders import FolderImages, check_splits, split_folder
from midstate.data.images import Images

STREAMS = ("tfds", "wds", "hfids")
FOLDERS = ("folder", "torch/folder", "torch/image_folder")
# torchvision's sets of two splits; for a split name that timm does not know it silently takes the second.
TWO_SPLITS = tuple(f"torch/{name}" for name in ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist"))
# Split names that timm treats as synonyms.
SYNONYMS = ("train", "training"), ("val", "valid", "validation", "eval", "evaluation")


@dataclass(frozen=True, kw_only=True)
class TimmData(Files):
    """A set that timm's `create_dataset` opens by name.

    Args:
        name: name of the set, such as folder, torch/cifar10 or hfds/OWNER/NAME.
        train: name of the training split.
        validation: name of the validation split; None: `num_validation` training images are held out.
        test: name of the test split.
        download: fetch missing files, if timm can.
    """

    name: str
    train: str = "train"
    validation: str | None = None
    test: str = "validation"
    download: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("name", "train", "test"):
            checks.text(name, getattr(self, name))
        if self.validation is not None:
            checks.text("validation", self.validation)
        checks.boolean("download", self.download)
        kind, _, rest = self.name.partition("/")
        if kind.lower() in STREAMS:
            raise ValueError(
                f"name={self.name!r}: is read as a stream; it must be a set with an index, such as folder, "
                "torch/cifar10 or hfds/OWNER/NAME"
            )
        if self.name != "folder" and not (rest and kind.lower() in ("torch", "hfds")):
            raise ValueError(f"name={self.name!r}: must be folder, or a name such as torch/cifar10 or hfds/OWNER/NAME")
        self._check_names()

    def _check_names(self) -> None:
        """Refuse split names for which timm would silently take another split, or the same one twice."""
        if self._known_as in TWO_SPLITS:
            checks.one_of("train", self.train, ("train", "training"))
            checks.one_of("test", self.test, ("test", "validation", "val"))
            if self.validation is not None:
                raise ValueError(f"validation={self.validation!r}: must be null, {self.name} has no split for it")
        elif self._known_as not in FOLDERS:
            names = [name for name in (self.train, self.validation, self.test) if name is not None]
            if len({_synonyms(name) for name in names}) < len(names):
                raise ValueError(f"splits {', '.join(names)}: train, validation and test must be different splits")

    @property
    def _known_as(self) -> str:
        """The name as timm reads it."""
        torchs = self.name.lower().startswith("torch/")
        return f"torch/{self.name.split('/', 2)[-1]}".lower() if torchs else self.name

    def load(self) -> Images:
        """Open the splits without reading an image.

        Raises:
            ValueError: timm cannot open or fetch the set, it does not say how many classes it has, splits share an
                image, or their classes differ.
        """
        names = [name for name in ("train", "validation", "test") if getattr(self, name) is not None]
        sources = {name: self._source(name) for name in names}
        for name, source in sources.items():
            if not len(source):
                raise ValueError(f"{name}={getattr(self, name)!r}: holds no image")
        check_splits(self, sources)
        num_classes, targets = self.num_classes, sources["train"].targets
        if num_classes is None:
            if targets is None:
                raise ValueError("num_classes=None: this set does not tell; it must be set")
            num_classes = max(2, max(targets) + 1)
        return self._images(sources["train"], sources.get("validation"), sources["test"], num_classes)

    def _source(self, setting: str) -> Any:
        from timm.data import create_dataset, get_img_extensions
        from torchvision.datasets.folder import IMG_EXTENSIONS

        split, folder, options = getattr(self, setting), self.folder, {}
        if self._known_as in FOLDERS:
            folder = split_folder(folder, setting, split, _synonyms(split))
            options = {"allow_empty": True} if self._known_as != "folder" else {}  # `check_splits` checks classes
        try:
            with removing_what_is_empty(folder) if self.download else nullcontext():
                data = create_dataset(
                    self.name, root=str(folder), split=split, search_split=False, download=self.download, **options
                )
        except ImportError as error:
            raise ValueError(f"name={self.name!r}: needs a package that is not installed ({error})") from error
        except Exception as error:  # whatever other libraries raise for a name, a folder or a network
            fetched = self.download or self._known_as in FOLDERS
            raise ValueError(
                f"name={self.name!r}, root={self.root!r}: timm cannot open split {split!r} ({first_line(error)}); "
                + ("put its files there" if fetched else "put its files there, or set data.download=true")
            ) from error
        listing = data if hasattr(data, "samples") else getattr(data, "reader", None)
        if hasattr(listing, "samples"):
            extensions = get_img_extensions() if self._known_as == "folder" else IMG_EXTENSIONS
            return FolderImages(str(listing.root), listing.samples, listing.class_to_idx, extensions)
        return _Source(data)


class _Source(Dataset):
    """One split; an unreadable image raises an error, where timm would silently return another image."""

    def __init__(self, data: Any) -> None:
        self.data, self.reader = data, getattr(data, "reader", None)
        self.targets = _targets(data, self.reader)
        self.class_to_idx = getattr(self.reader or data, "class_to_idx", None) or None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if self.reader is None:
            return self.data[index]
        stream, label = self.reader[index][:2]
        with stream:
            return to_rgb(Image.open(stream)), label

    def name(self, index: int) -> str:
        """Return the file of an image."""
        file = None if self.reader is None else self.reader.filename(index, absolute=True)
        return file or f"image {index}"  # images in tables of Hugging Face may have no file


def _synonyms(split: str) -> tuple[str, ...]:
    """Return all split names that timm treats as this one."""
    return next((names for names in SYNONYMS if split in names), (split,))


def _targets(data: Any, reader: Any) -> list[int] | None:
    """Return the labels of all images; None if images would have to be read for them."""
    if hasattr(data, "targets"):
        return [int(label) for label in data.targets]
    return [int(label) for label in reader.iter_targets()] if hasattr(reader, "iter_targets") else None
