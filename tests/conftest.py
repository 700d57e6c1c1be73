"""Helpers: a run in this process, and a run as a user starts it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from midstate.bench.common import composed

__all__ = ["ROOT", "TINY", "composed", "start"]

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


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
