"""Folders of images: the files that are listed, and checks that splits have the same classes and no file in common."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from midstate.data.decoding import to_rgb

log = logging.getLogger(__name__)
NAMED = 5  # a message names at most so many folders
_HIDDEN = re.compile(rf"{re.escape(os.sep)}\.")


class FolderImages(Dataset):
    """The listed images of a split, each file once, without files and folders whose name begins with a dot.

    Args:
        folder: folder of the split.
        samples: (file in the folder, label).
        class_to_idx: label of each class, by name; images in no class's folder have the class "" and are left out.
        extensions: extensions of the listed files, such as .jpg.
    """

    def __init__(
        self,
        folder: str,
        samples: Sequence[tuple[str, int]],
        class_to_idx: Mapping[str, int],
        extensions: Sequence[str],
    ) -> None:
        seen = sorted({label for name, label in class_to_idx.items() if name and not name.startswith(".")})
        labels = {label: number for number, label in enumerate(seen)}
        self.folder, self.extensions = folder, tuple(extensions)
        self.class_to_idx = {name: labels[label] for name, label in class_to_idx.items() if label in labels}
        self.samples = _once(
            folder,
            [
                (file, labels[label])
                for file, label in samples
                if label in labels and not _HIDDEN.search(file, len(folder))
            ],
        )
        self.targets = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def left_out(self, name: str = "") -> str:
        """Describe the files with another extension in a class's folder, or in all: '3 .gif'; empty for none."""
        found: Counter[str] = Counter()
        for place, folders, files in os.walk(os.path.join(self.folder, name) if name else self.folder):
            folders[:] = [each for each in folders if not each.startswith(".")]
            if place != self.folder:
                found.update(
                    os.path.splitext(file)[1].lower() or "without an extension"
                    for file in files
                    if not file.startswith(".") and not file.lower().endswith(self.extensions)
                )
        return some([f"{count:,} {kind}" for kind, count in found.most_common()])

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        file, label = self.samples[index]
        with open(file, "rb") as stream:
            return to_rgb(Image.open(stream)), label


def split_folder(root: Path, setting: str, name: str, synonyms: Iterable[str] = ()) -> Path:
    """Return the folder of a split.

    Args:
        root: folder that holds the folders of all splits.
        setting: train, validation or test.
        name: name of the folder.
        synonyms: other names, tried after `name`.

    Raises:
        ValueError: the root or the folder does not exist.
    """
    if not root.is_dir():
        raise ValueError(f"root={str(root)!r}: no such folder; it must hold folders of images, one a class")
    for folder in (root / each for each in (name, *synonyms)):
        if folder.is_dir():
            return folder
    there = some(sorted(entry.name for entry in os.scandir(root) if entry.is_dir())) or "none"
    raise ValueError(f"{setting}={name!r}: no such folder in {root}; there are {there}")


def check_splits(settings: Any, sources: Mapping[str, Any]) -> None:
    """Refuse splits that share a file or whose classes differ, classes without an image, and fewer than two classes.

    Warn of files in the folders of classes that are not images by their extension.

    Args:
        settings: settings of the set; its train, validation and test name the splits.
        sources: the splits by setting; `class_to_idx` is None where classes have no names.

    Raises:
        ValueError: a split is refused.
    """
    shown = {setting: f"{setting}={getattr(settings, setting)!r}" for setting in sources}
    listed = {setting: source for setting, source in sources.items() if isinstance(source, FolderImages)}
    for setting, source in listed.items():
        with_images = set(source.targets)
        if empty := sorted(name for name, label in source.class_to_idx.items() if label not in with_images):
            others = source.left_out(empty[0])
            hint = f" ({others} there; {', '.join(source.extensions)} are read)" if others else ""
            raise ValueError(f"{shown[setting]}: no image in {source.folder} of {some(empty)}{hint}")
    _check_apart(shown, listed)
    _check_classes(settings, shown, sources)
    for setting, source in listed.items():
        if others := source.left_out():
            log.warning(
                f"warning: data.{shown[setting]}: files that are not read in {source.folder}: {others}; read are "
                f"{', '.join(source.extensions)}"
            )


def some(names: list[str]) -> str:
    """List the first `NAMED` names, and the number of the others."""
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _check_apart(shown: Mapping[str, str], sources: Mapping[str, FolderImages]) -> None:
    files = {setting: set(_real(file for file, _ in source.samples)) for setting, source in sources.items()}
    for one, other in combinations(files, 2):
        if shared := files[one] & files[other]:
            raise ValueError(
                f"{shown[other]}: {len(shared)} of its images are of {shown[one]}, too, such as {min(shared)}; "
                "splits must share none"
            )


def _check_classes(settings: Any, shown: Mapping[str, str], sources: Mapping[str, Any]) -> None:
    classes = sources["train"].class_to_idx
    for setting, source in sources.items():
        if classes and source.class_to_idx and source.class_to_idx != classes:
            different = _differences(list(classes), list(source.class_to_idx)) or ["they are numbered otherwise"]
            raise ValueError(
                f"{shown[setting]}: its classes are not those of {settings.train!r}: {' and '.join(different)}"
            )
    if classes is not None and len(set(classes.values())) < 2:
        held = f"one class, {some(list(classes))}" if classes else "no class"
        raise ValueError(f"root={settings.root!r}: {settings.train!r} holds {held}; two are needed")


def _differences(expected: list[str], found: list[str]) -> list[str]:
    """Describe which classes are missing and which are only in `found`."""
    missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    return [f"{some(names)} {word}" for names, word in ((missing, "missing"), (more, "only there")) if names]


def _once(folder: str, samples: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Keep one sample of each file that links list repeatedly: the one without a link, else the first."""
    real, kept = os.path.realpath(folder), {}
    for sample, file in zip(samples, _real(file for file, _ in samples), strict=True):
        if file not in kept or file == real + sample[0][len(folder) :]:
            kept[file] = sample
    remaining = set(kept.values())
    return [sample for sample in samples if sample in remaining]


def _real(files: Iterable[str]) -> Iterator[str]:
    """Yield the real path of each file; links are listed once for each folder, since a look at each file is slow."""
    folders: dict[str, tuple[str, set[str]]] = {}
    for file in files:
        folder, name = os.path.split(file)
        if folder not in folders:
            links = {entry.name for entry in os.scandir(folder) if entry.is_symlink()}
            folders[folder] = os.path.realpath(folder), links
        real, links = folders[folder]
        yield os.path.realpath(file) if name in links else os.path.join(real, name)
