"""Any data set that timm opens by name and that has an index: folders, torchvision's sets, Hugging Face's."""

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from midstate.config import first_line
from midstate.data.files import Files
from midstate.data.loader import Images
from midstate.sparsity import checks

STREAMS = ("tfds", "wds", "hfids")


@dataclass(frozen=True, kw_only=True)
class TimmData(Files):
    """A set of timm, by name, as its `create_dataset` takes it.

    Args:
        name: such as folder, torch/cifar10 or hfds/OWNER/NAME.
        train: name of the training split.
        validation: name of the validation split; None: `num_validation` training images are held out.
        test: name of the test split.
        download: fetch what is missing, where timm can.
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
        if self.name.partition("/")[0].lower() in STREAMS:
            raise ValueError(
                f"name={self.name!r}: is read as a stream; it must be a set with an index, such as folder, "
                "torch/cifar10 or hfds/OWNER/NAME"
            )

    def load(self) -> Images:
        """Open the splits; no image is read.

        Raises:
            ValueError: timm cannot open or fetch the set, or it does not say how many classes it has.
        """
        train, test = self._source(self.train), self._source(self.test)
        validation = self._source(self.validation) if self.validation is not None else None
        num_classes = self.num_classes
        if num_classes is None:
            if train.targets is None:
                raise ValueError("num_classes=None: this set does not tell; it must be set")
            num_classes = max(2, max(train.targets) + 1)
        return self._images(train, validation, test, num_classes)

    def _source(self, split: str) -> "_Source":
        from timm.data import create_dataset

        try:
            data = create_dataset(self.name, root=self.root, split=split, download=self.download)
        except ImportError as error:
            raise ValueError(f"name={self.name!r}: needs a package that is not installed ({error})") from error
        except Exception as error:  # whatever other libraries raise for a name, a folder or a network
            raise ValueError(
                f"name={self.name!r}, root={self.root!r}: timm cannot open split {split!r} ({first_line(error)}); "
                + ("put its files there" if self.download else "put its files there, or set data.download=true")
            ) from error
        return _Source(data)


class _Source(Dataset):
    """One split; where timm would silently take another image for one that cannot be read, this does not."""

    def __init__(self, data: Any) -> None:
        self.data, self.reader = data, getattr(data, "reader", None)
        self.targets = _targets(data, self.reader)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if self.reader is None:
            return self.data[index]
        stream, label = self.reader[index][:2]
        with stream:
            return Image.open(stream).convert("RGB"), label

    def name(self, index: int) -> str:
        """Return the file of an image."""
        return f"image {index}" if self.reader is None else self.reader.filename(index, absolute=True)


def _targets(data: Any, reader: Any) -> list[int] | None:
    """Return the labels of all images, where that needs no image to be read."""
    if hasattr(data, "targets"):
        return [int(label) for label in data.targets]
    if hasattr(reader, "samples"):
        return [int(label) for _, label in reader.samples]
    return [int(label) for label in reader.iter_targets()] if hasattr(reader, "iter_targets") else None
