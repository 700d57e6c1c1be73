"""Writing files whole or not at all."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's own mode would hide results from colleagues
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove_partial(directory: Path) -> None:
    """Remove what a process that was killed has left half written, in a directory and the ones in it."""
    for path in [*directory.glob(f".*{PARTIAL}"), *directory.glob(f"*/.*{PARTIAL}")]:
        with suppress(OSError):
            path.unlink()


def _sync(directory: Path) -> None:
    """Make a renaming last, before anything older is removed; not every system can."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
