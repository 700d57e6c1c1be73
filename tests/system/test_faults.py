"""Kills, impatience and odd command lines: a handful of what scripts/faults.py does at length."""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY, assert_checkpoints_whole, begin, wait_for

from faults import fuzz, kill
from midstate.runs import checkpoint

pytestmark = pytest.mark.slow

# A second or so a step.
SLOW = ("data=fake", "data.size=32", "model=resnet18", "trainer.batch_size=128", "trainer.checkpoint_every=1it")
SLOW = (*SLOW, "trainer.threads=1", "trainer.probes=false", "logger=none", "pruner=nm", "run_dir=run")


def test_killed_runs_go_on_to_the_same_bits():
    rows = kill.measure(6, seed=1, kinds=[("nm_block", "bf16"), ("maxq", "fp32")])
    assert sum(row["kills"] for row in rows) == 6
    assert [row["not bit-equal"] for row in rows] == [0, 0]


def test_any_command_line_trains_or_is_refused_in_one_message():
    outcomes = {row["outcome"]: row["command lines"] for row in fuzz.measure(60, seed=1)}
    assert not [name for name in outcomes if name.startswith("defect")], outcomes
    assert outcomes["finished"] > 12
    assert outcomes["refused"] > 12


@pytest.fixture
def slow_run(tmp_path):
    """A run with its first checkpoint written, in the middle of its second step or a later one."""
    process = begin(tmp_path, *SLOW)
    wait_for(process, lambda: list(tmp_path.glob("run/checkpoints/step-*.pt")))
    yield process
    process.kill()
    process.wait()


def assert_checkpoints_are_whole(directory):
    assert checkpoint.checkpoints(directory / "checkpoints")
    assert_checkpoints_whole(directory)
    assert not list((directory / "checkpoints").glob(".*"))


def test_a_second_interrupt_stops_at_once_and_harms_no_checkpoint(slow_run, tmp_path):
    slow_run.send_signal(signal.SIGINT)
    time.sleep(0.1)  # two signals at once are one
    slow_run.send_signal(signal.SIGINT)
    output, errors = slow_run.communicate(timeout=60)
    assert slow_run.returncode == 130
    assert errors.splitlines()[-1] == "stopped at once; the last checkpoint is whole"
    assert "Traceback" not in errors
    assert "the same command goes on from here" not in output  # nothing more was saved
    assert_checkpoints_are_whole(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_one_request_finishes_the_step_and_saves(slow_run, tmp_path, number):
    slow_run.send_signal(number)
    output, _ = slow_run.communicate(timeout=60)
    assert slow_run.returncode == 75
    assert "the same command goes on from here" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert_checkpoints_are_whole(tmp_path / "run")


SWEEP = ("-m", "launcher=pool", "hydra.launcher.n_jobs=2", "pruner=nm", "seed=0,1,2,3", *TINY, "trainer.epochs=12")


def summaries(place):
    found = [json.loads(path.read_text()) for path in place.glob("outputs/nm/*/*/summary.json")]
    return {each["seed"]: each for each in found if each["status"] == "finished"}


def test_a_killed_worker_takes_its_pool_along_and_the_same_command_runs_what_is_missing(tmp_path, start):
    process = begin(tmp_path, *SWEEP)
    begun = "outputs/nm/*/seed[23]/checkpoints/step-*.pt"
    wait_for(process, lambda: summaries(tmp_path) and list(tmp_path.glob(begun)))
    before = summaries(tmp_path)
    lock = next(tmp_path.glob(begun)).parents[1] / ".lock"
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "run failed: a worker of the pool was killed, and its jobs with it" in errors
    assert "Traceback" not in errors
    again = start(*SWEEP)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before") >= len(before)
    assert "going on from step" in again.stdout
    after = summaries(tmp_path)
    assert sorted(after) == [0, 1, 2, 3]
    assert {seed: after[seed] for seed in before} == before


# To the process, as by `kill` or a batch system, and to its group, as by a terminal.
@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGUSR2, False)])
def test_a_pool_that_is_asked_to_stop_saves_every_job_and_ends_with_75(tmp_path, start, number, group):
    long = (*SWEEP, "trainer.epochs=400", "trainer.checkpoint_every=400ep")
    process = begin(tmp_path, *long, start_new_session=True)
    tables = "outputs/nm/*/*/metrics.csv"
    wait_for(process, lambda: sum(len(path.read_bytes()) > 200 for path in tmp_path.glob(tables)) == 2)
    (os.killpg if group else os.kill)(process.pid, number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "Traceback" not in errors
    found = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/nm/*/*/summary.json")]
    assert [each["status"] for each in found] == ["stopped", "stopped"]  # and none was begun after that
    assert len(list(tmp_path.glob("outputs/nm/*/*/checkpoints/step-*.pt"))) == 2
    assert output.count("the same command goes on from here") == 2


def test_a_stop_before_the_first_step_writes_nothing(tmp_path):
    process = begin(tmp_path, *SLOW)
    maps = Path(f"/proc/{process.pid}/maps")  # Hydra has composed where torch is imported
    wait_for(process, lambda: b"libtorch" in maps.read_bytes())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert not list(tmp_path.iterdir())


def test_memory_that_runs_out_is_said_in_a_line(tmp_path, slow_run):
    with open(f"/proc/{slow_run.pid}/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.prlimit(slow_run.pid, resource.RLIMIT_AS, (taken + 2**20, taken + 2**20))
    _, errors = slow_run.communicate(timeout=120)
    assert slow_run.returncode == 3, errors
    assert "run failed: out of memory" in errors
    assert "a smaller trainer.batch_size" in errors
    assert_checkpoints_are_whole(tmp_path / "run")


@pytest.mark.parametrize(("overrides", "status"), [((), 0), (("seed=-1",), 2), (("optimizer.lr=1e30",), 3)])
def test_the_status_is_told_where_nothing_else_can_be(tmp_path, overrides, status):
    job = ("pruner=nm", *TINY, "optimizer.warmup=0", "run_dir=run", *overrides)
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, str(ROOT / "train.py"), *job], cwd=tmp_path, stdout=full, stderr=full)
    assert done.returncode == status


def test_a_reader_that_leaves_takes_nothing_along(tmp_path):
    job = shlex.join([sys.executable, str(ROOT / "train.py"), "pruner=nm", *TINY, "run_dir=run"])
    done = subprocess.run(
        ["bash", "-c", f"{job} | true; exit ${{PIPESTATUS[0]}}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert not done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_letters_that_cannot_be_shown_stop_nothing(start, tmp_path, environment):
    done = start("pruner=nm", *TINY, "trainer.epochs=1", "optimizer.warmup=0", "run_dir=d\u00e9", **environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert (tmp_path / "d\u00e9" / "summary.json").exists()


@pytest.mark.parametrize(
    "command", ["train.py -sc install=bash", "train.py --cfg job", "train.py --info", "scripts/reproduce.py --list"]
)
def test_a_reader_of_what_is_printed_may_leave(tmp_path, command):
    printing = f"{sys.executable} -u {ROOT}/{command}"
    script = f"{printing} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout
    assert not done.stderr


def test_a_stop_that_also_ends_the_compiler_is_a_stop(tmp_path):
    """Ctrl-C goes to all processes of a terminal, also to the C++ compiler that torch.compile waits for."""
    compiler = tmp_path / "c++"
    stop_once = f"case $* in *main.cpp*) mkdir {tmp_path}/asked 2> /dev/null && kill -INT 0; exit 1;; esac"
    compiler.write_text(f'#!/bin/bash\n{stop_once}\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    job = ("pruner=nm", *TINY, "trainer.compile=true", "trainer.probes=false", "optimizer.warmup=0", "run_dir=run")
    places = {"CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    process = begin(tmp_path, *job, env={**os.environ, **places}, start_new_session=True)
    said, errors = process.communicate(timeout=300)
    assert (tmp_path / "asked").exists()
    assert process.returncode == 75, errors
    assert "the compiler was stopped, too" in said
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"
