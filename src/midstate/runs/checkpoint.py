"""Checkpoints: written atomically, the last two kept, read without unpickling code."""

import hashlib
import logging
import os
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from midstate.common.errors import ConfigError, first_line
from midstate.common.files import write_atomically
from midstate.distributed.machine import is_memory

log = logging.getLogger(__name__)
FORMAT = 1
KEEP = 2


def save(directory: Path, step: int, state: dict[str, Any]) -> None:
    """Save `state` with its digest as the checkpoint of `step`; keep it and the one before, remove all others."""
    state = {"step": step, **state}
    path = directory / f"step-{step:09d}.pt"
    _write(path, {"digest": digest(state), **state})
    found = checkpoints(directory)
    place = found.index(path) + 1
    # Checkpoints of later steps must be broken: otherwise the run would have resumed from them.
    for other in found[: max(0, place - KEEP)] + found[place:]:
        other.unlink(missing_ok=True)


def save_final(directory: Path, model: nn.Module) -> None:
    """Save a finished model as final.pt: plain weights under the names of the plain model, zeros in place."""
    _write(directory / "final.pt", {"model": model.state_dict()})


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def checkpoints(directory: Path) -> list[Path]:
    """List the checkpoints, oldest first.

    Raises:
        OSError: the directory is there and cannot be read.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(directory / name for name in names if fnmatch(name, "step-*.pt"))


def load_latest(directory: Path, device: torch.device) -> dict[str, Any] | None:
    """Load the newest checkpoint that is not damaged; None if there are no checkpoints.

    Raises:
        ConfigError: all are damaged, or the newest undamaged one is of a later format; the files are left alone.
        OSError: the directory cannot be read.
    """
    found = checkpoints(directory)
    reasons = []
    for path in reversed(found):
        try:
            return _read(path, device)
        except _Broken as error:
            reasons.append(f"{path.name}: {error}")
            log.warning(f"warning: checkpoint {path} is broken ({error}); trying the one before")
    if found:
        raise ConfigError(
            f"{directory}: no checkpoint can be used ({'; '.join(reasons)}); the files are left as they are. "
            "rerun=true starts over"
        )
    return None


class _Broken(Exception):
    """A checkpoint file is damaged, or is no checkpoint."""


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(BytesIO(path.read_bytes()), map_location=device, weights_only=True)
    except Exception as error:  # damaged bytes raise many kinds; code in the file is refused, not run
        if is_memory(error) or "CUDA" in str(error):
            raise  # not the file's fault
        raise _Broken(first_line(error)) from error
    if not isinstance(state, dict) or not {"format", "step"} <= set(state):
        raise _Broken("it is no checkpoint")
    if (written_as := state.pop("format")) > FORMAT:
        raise ConfigError(f"{path}: is of format {written_as}, and {FORMAT} is the last that is known here")
    written = state.pop("digest", None)  # the oldest checkpoints have none
    if written is not None and written != digest(state):
        raise _Broken("its content does not match its digest")
    return state


def digest(content: Any) -> str:
    """SHA-256 of nested dicts, lists and tensors: names, types, shapes and every bit."""
    total = hashlib.sha256()
    _add(total, content)
    return total.hexdigest()


def _add(total: Any, content: Any) -> None:
    if isinstance(content, torch.Tensor):
        total.update(f"{content.dtype}{tuple(content.shape)}".encode())
        total.update(content.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(content, dict):
        total.update(f"dict{len(content)}".encode())
        for key, value in content.items():
            total.update(repr(key).encode())
            _add(total, value)
    elif isinstance(content, list | tuple):
        total.update(f"{type(content).__name__}{len(content)}".encode())
        for value in content:
            _add(total, value)
    else:
        total.update(repr(content).encode())
