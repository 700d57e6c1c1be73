"""Helpers: a run in this process, and a run as a user starts it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

ROOT = Path(__file__).parents[1]

# A real run of about two seconds: real digits, four epochs of six steps.
TINY = (
    "data.train_placements=1",
    "data.eval_placements=1",
    "trainer.epochs=4",
    "trainer.max_steps_per_epoch=6",
    "logger=none",
)


def composed(*overrides: str) -> DictConfig:
    """Compose a configuration as `python train.py OVERRIDES` does, with Hydra's own facts in place."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


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
