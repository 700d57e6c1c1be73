"""Clean-up after a failed download of a data set."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def removing_what_is_empty(root: Path) -> Iterator[None]:
    """Remove the empty folders that a failed download has made."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    before = set(os.listdir(root)) if root.is_dir() else set()
    try:
        yield
    except BaseException:
        new = [root / name for name in set(os.listdir(root)) - before] if root.is_dir() else []
        inside = [folder for top in new for folder, _, _ in os.walk(top, topdown=False)]
        for folder in (*inside, *made):
            with suppress(OSError):  # it is not empty
                os.rmdir(folder)
        raise
