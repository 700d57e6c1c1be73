"""Helpers: a run in this process, and a run as a user starts it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from midstate.bench.common import composed
from midstate.checkpoint import checkpoints, digest

__all__ = ["ROOT", "TINY", "assert_checkpoints_whole", "begin", "composed", "start", "wait_for"]

ROOT = Path(__file__).parents[1]

# A real run of about two seconds: real digits, four epochs of six steps.
TINY = (
    "data.train_placements=1",
    "data.eval_placements=1",
    "trainer.epochs=4",
    "trainer.max_steps_per_epoch=6",
    "logger=none",
)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run `train.py` in a process of its own, in an empty directory."""

    def run(*overrides: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *overrides],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=180,
        )

    return run


def begin(place: Path, *overrides: str, before: Sequence[str] = (), **options: Any) -> subprocess.Popen:
    """Start `train.py` in `place` and leave it at work; `before` stands in front of the command."""
    command = [*before, sys.executable, str(ROOT / "train.py"), *overrides]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for(process: subprocess.Popen, happened: Callable[[], object]) -> None:
    """Wait until something has happened, while the process is at work."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_checkpoints_whole(directory: Path) -> None:
    """Every checkpoint of a run is what was written."""
    for path in checkpoints(directory / "checkpoints"):
        state = torch.load(path, weights_only=True)
        state.pop("format")
        assert state.pop("digest") == digest(state)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
