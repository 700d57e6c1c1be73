"""Kills, impatience and odd command lines: a handful of what scripts/faults.py does at length."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, TINY

from midstate import checkpoint
from midstate.faults import fuzz, kill

# A second or so a step.
SLOW = ("data=fake", "data.size=32", "model=resnet18", "trainer.batch_size=128", "trainer.checkpoint_every=1it")
SLOW = (*SLOW, "trainer.threads=1", "trainer.probes=false", "logger=none", "pruner=nm", "run_dir=run")


def test_killed_runs_go_on_to_the_same_bits():
    rows = kill.measure(6, seed=1, kinds=[("nm_block", "bf16"), ("maxq", "fp32")])
    assert sum(row["kills"] for row in rows) == 6
    assert [row["not bit-equal"] for row in rows] == [0, 0]


def test_any_command_line_trains_or_is_refused_in_one_message():
    outcomes = {row["outcome"]: row["command lines"] for row in fuzz.measure(100, seed=1)}
    assert not [name for name in outcomes if name.startswith("defect")], outcomes
    assert outcomes["finished"] > 20
    assert outcomes["refused"] > 20


@pytest.fixture
def slow_run(tmp_path):
    """A run with its first checkpoint written, in the middle of its second step or a later one."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *SLOW],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/step-*.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def assert_checkpoints_are_whole(directory):
    found = checkpoint.checkpoints(directory / "checkpoints")
    assert found
    for path in found:
        state = torch.load(path, weights_only=True)
        state.pop("format")
        assert state.pop("digest") == checkpoint.digest(state)
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
    command = [sys.executable, str(ROOT / "train.py"), *SWEEP]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (set(summaries(tmp_path)) and list(tmp_path.glob("outputs/nm/*/seed[23]/checkpoints/step-*.pt"))):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = summaries(tmp_path)
    lock = next(tmp_path.glob("outputs/nm/*/seed[23]/checkpoints/step-*.pt")).parents[1] / ".lock"
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


def test_memory_that_runs_out_is_said_in_a_line(tmp_path, slow_run):
    with open(f"/proc/{slow_run.pid}/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.prlimit(slow_run.pid, resource.RLIMIT_AS, (taken + 2**20, taken + 2**20))
    _, errors = slow_run.communicate(timeout=120)
    assert slow_run.returncode == 3, errors
    assert "run failed: out of memory" in errors
    assert "a smaller trainer.batch_size" in errors
    assert_checkpoints_are_whole(tmp_path / "run")
