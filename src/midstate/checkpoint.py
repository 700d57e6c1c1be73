"""Checkpoints: written whole or not at all, the last two kept, read without unpickling code."""

import os
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

FORMAT = 1
KEEP = 2


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


def save(directory: Path, step: int, state: dict[str, Any]) -> None:
    """Save `state` as the newest checkpoint and drop all but the last two."""
    _write(directory / f"step-{step:09d}.pt", {"step": step, **state})
    for old in checkpoints(directory)[:-KEEP]:
        old.unlink()


def save_final(directory: Path, model: nn.Module) -> None:
    """Save a finished model as final.pt: plain weights under the names of the plain model, zeros in place."""
    _write(directory / "final.pt", {"model": model.state_dict()})


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def checkpoints(directory: Path) -> list[Path]:
    """List the checkpoints, oldest first."""
    return sorted(directory.glob("step-*.pt"))


def load_latest(directory: Path, device: torch.device) -> dict[str, Any] | None:
    """Load the newest checkpoint; None where there is none."""
    found = checkpoints(directory)
    if not found:
        return None
    return torch.load(found[-1], map_location=device, weights_only=True)
