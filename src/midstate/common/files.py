"""Files: atomic writes, tables, and text between marks."""

import csv
import io
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

PARTIAL = ".partial"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new."""
    write_together({path: content})


def write_together(contents: dict[Path, bytes]) -> None:
    """Write files that belong together: all are written beside their targets before the first target is replaced."""
    beside: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, beside[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(beside[path], 0o644)  # mkstemp's 0600 would hide results from colleagues
        for path, temporary in beside.items():
            os.replace(temporary, path)
    except BaseException:
        for temporary in beside.values():
            Path(temporary).unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in contents}:
        _sync(folder)


def read_yaml(path: Path) -> Any:
    """Read a YAML file; PyYAML's parser in C, where it has it, takes a tenth of the time."""
    return yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def remove_partial(directory: Path) -> None:
    """Remove the partial files that a killed process has left in a directory and its direct subdirectories."""
    for path in [*directory.glob(f".*{PARTIAL}"), *directory.glob(f"*/.*{PARTIAL}")]:
        with suppress(OSError):
            path.unlink()


def _sync(directory: Path) -> None:
    """Flush a directory's entries to the disk, so that a renaming survives a crash; not every system can."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Write a whole table at once: a reader never sees half a row, resuming never repeats one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def put(path: Path, name: str, text: str) -> None:
    """Replace the text between a file's marks <!-- name --> and <!-- end -->.

    Raises:
        ValueError: the file has no such marks.
    """
    marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    content, found = marks.subn(lambda match: f"{match[1]}{text}\n{match[2]}", path.read_text())
    if not found:
        raise ValueError(f"{path}: has no marks <!-- {name} --> and <!-- end -->")
    path.write_text(content)
