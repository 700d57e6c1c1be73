"""W&B that cannot be reached, is missing or dies: real processes; training goes on and nothing is lost."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import TINY, begin, wait_for

pytestmark = pytest.mark.slow

ONLINE = ("logger=wandb", "logger.mode=online", "pruner=nm", *TINY[:-1], "run_dir=run")
KEY = "0123456789abcdef0123456789abcdef01234567"


def assert_finished(done, directory):
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "run_dir: run"
    assert json.loads((directory / "run" / "summary.json").read_text())["status"] == "finished"
    assert len((directory / "run" / "metrics.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("key", [KEY, "not a key"])
def test_without_a_server_the_run_is_recorded_offline(start, tmp_path, key):
    where = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "5", "WANDB_API_KEY": key}
    done = start(*ONLINE, **where)
    assert_finished(done, tmp_path)
    assert done.stdout.count("W&B cannot be reached") == 1
    assert "Later: wandb sync run/wandb/offline-run-*" in done.stdout
    assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))


def test_where_it_is_not_installed_that_is_said(start, tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'wandb'\")\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = start(*ONLINE[:1], *ONLINE[2:], PYTHONPATH=path)
    assert_finished(done, tmp_path)
    assert "W&B failed (No module named 'wandb')" in done.stdout


def test_where_its_process_is_killed_training_goes_on(tmp_path):
    job = ("logger=wandb", "pruner=nm", *TINY[:-1], "trainer.max_steps_per_epoch=16", "run_dir=run")
    process = begin(tmp_path, *job)
    wait_for(process, lambda: list(tmp_path.glob("run/checkpoints/step-*.pt")))
    for child in children(process.pid):
        os.kill(child, signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert_finished(subprocess.CompletedProcess(job, process.returncode, output, errors), tmp_path)
    assert output.count("W&B failed") == 1
    assert "wandb sync run/wandb/" in output


def children(pid):
    """Processes that a process has started (Linux)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
