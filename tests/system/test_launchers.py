"""Sweeps on submitit's local executor and a local Ray: real jobs that finish, fail, are preempted, killed and stopped.

Slurm itself is not here: of it, what is handed to `sbatch` is looked at.
"""

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest
from conftest import TINY, assert_checkpoints_whole, begin, composed, wait_for

from midstate.config.overrides import OWN_OF_HYDRA
from midstate.runs.run import run

SECRET = "0123456789abcdef0123456789abcdef01234567"
# Long enough to be met at work; no checkpoint but those that a signal asks for.
JOB = ("pruner=nm", *TINY, "trainer.epochs=12", "trainer.checkpoint_every=400ep", "optimizer.warmup=0")
FAILS = "optimizer.lr=1e30"
LONG = (*JOB, "trainer.epochs=400")


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Every step's loss of a run that nothing interrupts."""
    directory = tmp_path_factory.mktemp("whole")
    run(composed(*JOB, f"run_dir={directory}"))
    return (directory / "losses.csv").read_text()


@pytest.fixture
def places(tmp_path):
    """The environment of a sweep: a home directory, and a place for Ray's files, of its own."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:  # names of sockets must be short
        (tmp_path / "home").mkdir()
        yield {**os.environ, "HOME": str(tmp_path / "home"), "RAY_TMPDIR": short, "MY_TOKEN": SECRET}


def summaries(place):
    found = {path.parent: json.loads(path.read_text()) for path in place.glob("outputs/nm/*/*/summary.json")}
    return {each: summary["status"] for each, summary in found.items()}


def at_work(place, seed, least=200):
    """Runs of a seed that have written a few rows, and whose processes hold them."""
    tables = place.glob(f"outputs/nm/*/seed{seed}/metrics.csv")
    return [path.parent for path in tables if len(path.read_bytes()) > least]


def holder(directory):
    return json.loads((directory / ".lock").read_text())["pid"]


def is_alive(number):
    status = Path(f"/proc/{number}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "number"), [("slurm_local", signal.SIGUSR2), ("ray", signal.SIGKILL)])
def test_a_job_is_begun_again_and_ends_with_the_same_bits_and_another_fails(tmp_path, places, losses, launcher, number):
    saving = "trainer.checkpoint_every=1ep" if number == signal.SIGKILL else "trainer.checkpoint_every=400ep"
    secret = "logger.tags=[${oc.env:MY_TOKEN}]"
    sweep = ("-m", f"launcher={launcher}", *JOB, saving, "logger=wandb", secret, f"optimizer.lr=0.1,{FAILS[13:]}")
    process = begin(tmp_path, *sweep, env=places)
    waited_for = "checkpoints/step-*.pt" if number == signal.SIGKILL else "metrics.csv"
    wait_for(process, lambda: any(list(each.glob(waited_for)) for each in at_work(tmp_path, 0)))
    (directory,) = at_work(tmp_path, 0)
    before = holder(directory)
    os.kill(before, number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert errors.splitlines()[-1].startswith("run failed: diverged: the loss is")
    assert "Traceback" not in output + errors
    assert sorted(summaries(tmp_path).values()) == ["failed", "finished"]
    assert summaries(tmp_path)[directory] == "finished"
    assert holder(directory) != before
    assert (directory / "losses.csv").read_text() == losses
    logs = output + "".join(path.read_text() for path in tmp_path.glob("outputs/multirun/.submitit/*/*.out"))
    assert "going on from step" in logs
    assert ("Requeued job" in logs) == (launcher == "slurm_local")
    assert len(list(directory.glob("wandb/offline-run-*"))) == 2  # of one run, as it was begun twice
    assert not list((tmp_path / "home").glob(".ray*"))
    assert not list(Path(places["RAY_TMPDIR"]).iterdir())
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


# To the process, as by `kill`, and to its group, as by a terminal.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number", "group"),
    [("slurm_local", signal.SIGTERM, False), ("slurm_local", signal.SIGINT, True), ("ray", signal.SIGTERM, False)],
)
def test_a_sweep_that_is_asked_to_stop_saves_every_job_and_ends_with_75(tmp_path, places, launcher, number, group):
    seeds = ("seed=0,1",) if launcher == "slurm_local" else ("seed=0,1,2", "hydra.launcher.ray.init.num_cpus=2")
    process = begin(tmp_path, "-m", f"launcher={launcher}", *seeds, *LONG, env=places, start_new_session=True)
    wait_for(process, lambda: len(at_work(tmp_path, "*")) == 2)
    holders = [holder(directory) for directory in at_work(tmp_path, "*")]
    (os.killpg if group else os.kill)(process.pid, number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "Traceback" not in output + errors
    assert list(summaries(tmp_path).values()) == ["stopped", "stopped"]  # and none was begun after that
    for directory in summaries(tmp_path):
        assert_checkpoints_whole(directory)
        assert len(list(directory.glob("checkpoints/step-*.pt"))) == 1
    assert not [number for number in holders if is_alive(number)]
    assert not list(Path(places["RAY_TMPDIR"]).iterdir())


@pytest.mark.slow
def test_a_lost_job_is_told_when_the_others_have_ended(tmp_path):
    process = begin(tmp_path, "-m", "launcher=slurm_local", "seed=0,1", *JOB, "trainer.epochs=20")
    wait_for(process, lambda: at_work(tmp_path, 0) and at_work(tmp_path, 1))
    os.kill(holder(at_work(tmp_path, 0)[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "run failed: a job of the sweep ended without a result" in errors
    assert "Traceback" not in errors
    assert {directory.name: status for directory, status in summaries(tmp_path).items()} == {"seed1": "finished"}


@pytest.mark.slow
def test_what_only_a_job_can_tell_is_refused_by_every_job(start, tmp_path):
    done = start("-m", "launcher=slurm_local", "pruner=nm", "schedule.start=500it,600it", *TINY)
    assert done.returncode == 2
    assert "lies after the run's end" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["multirun"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice", [("launcher=slurm", "slurm"), ("launcher=ray", "ray"), ("sweep=optuna_lr", "optuna")]
)
def test_a_plugin_that_is_missing_is_named_with_its_extra(start, tmp_path, choice):
    typed, extra = choice
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "__init__.py").touch()  # hides the real ones
    done = start(
        "-m", typed, "pruner=nm", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"is not installed: pip install -e '.[{extra}]'")


@pytest.mark.slow
def test_without_slurm_it_is_said_so(start):
    done = start("-m", "launcher=slurm", *JOB, PATH="/usr/bin:/bin")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        'configuration error: Could not detect "srun", are you indeed on a slurm cluster?'
    ]


@pytest.mark.slow
def test_slurm_is_asked_for_what_is_set_and_what_it_refuses_is_told(start, tmp_path):
    for name in ("srun", "sbatch"):  # stand in for a cluster's front
        (tmp_path / name).write_text(
            f"#!/bin/sh\ncat $1 > {tmp_path}/asked\necho 'sbatch: error: no account' >&2\nexit 1\n"
        )
        (tmp_path / name).chmod(0o755)
    settings = ("hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", "hydra.launcher.array_parallelism=2")
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = start("-m", "launcher=slurm", "seed=0,1,2", *settings, *JOB, PATH=path)
    assert done.returncode == 2
    assert "sbatch: error: no account" in done.stderr
    assert "Traceback" not in done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    for line in ("partition=gpu", "gpus-per-node=1", "cpus-per-task=4", "mem=8GB", "time=240", "signal=USR2@120",
                 "array=0-2%2", "requeue", "open-mode=append"):  # fmt: skip
        assert f"#SBATCH --{line}" in asked


# Each sets what is run, read, opened or listened to, or is a directory, or would make several processes of one run.
REFUSED = {
    "joblib": {"_target_", "backend", "prefer", "require", "temp_folder", "mmap_mode"},
    "submitit_slurm": {"_target_", "submitit_folder", "setup", "additional_parameters", "nodes", "tasks_per_node"},
    "submitit_local": {"_target_", "submitit_folder", "nodes", "tasks_per_node"},
    "ray": {"_target_", "ray"},
}


@pytest.mark.parametrize("launcher", REFUSED)
def test_each_setting_of_a_launcher_is_one_that_the_command_line_may_set_or_may_not(launcher):
    from hydra import compose, initialize_config_dir

    from midstate.common.project import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True)
    known = {name.removeprefix("hydra.launcher.") for name in OWN_OF_HYDRA}
    assert set(config.hydra.launcher) - known == REFUSED[launcher]
