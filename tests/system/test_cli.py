"""`python train.py` as a user runs it: processes, signals, files on disk, offline W&B."""

import csv
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY, begin, composed, wait_for

from midstate.runs.checkpoint import checkpoints
from midstate.runs.run import run

FILES = [argument for argument in TINY if argument != "logger=none"]
DRAWN = "machine.figures=true"


def run_dir_of(done, tmp_path):
    assert done.returncode == 0, done.stderr
    match = re.fullmatch("run_dir: (.+)", done.stdout.splitlines()[-1])
    return tmp_path / match[1]


def wandb_records(directory):
    """Read the one offline W&B file below a run directory with W&B's own reader."""
    (path,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    wandb = os.path.join(os.path.dirname(sys.executable), "wandb")
    done = subprocess.run([wandb, "leet", "inspect", "--json", str(path)], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return {kind: [r[kind] for r in records if r["type"] == kind] for kind in ("run", "history", "summary", "exit")}


def readme_command():
    """The first command of the README, without the installation."""
    first = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("pip install"))
    command = first.partition("&& python train.py ")[2]
    assert command == "pruner=nm_block schedule=cubic"
    return command.split()


def wandb_text(directory):
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    return file.read_bytes().decode(errors="replace")


def test_the_readme_command_at_a_reduced_size(start, tmp_path):
    done = start(*readme_command(), *FILES, DRAWN)
    directory = run_dir_of(done, tmp_path)
    assert directory.relative_to(tmp_path).parts[:2] == ("outputs", "nm_block")
    assert "1:16 on 100 % of blocks" in done.stdout
    assert "pattern verified" in done.stdout
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["pattern_verified"] is True

    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = wandb_records(directory)
    epochs = [record["item"] for record in records["history"] if "val/top1" in record["item"]]
    assert len(epochs) == len(rows) == 4
    for row, logged in zip(rows, epochs, strict=True):
        for key, value in row.items():
            assert (key in logged) == bool(value)
            assert not value or logged[key] == pytest.approx(float(value))
        assert logged["kept/stages.2.0.conv2"] == pytest.approx(logged["kept"], abs=0.02)
    assert any("figures/accuracy" in str(record) for record in records["history"])
    assert any("tables/losses" in str(record) for record in records["history"])
    assert all(kind in wandb_text(directory) for kind in ("weights-", "results-", "final.pt", "scheme.json"))
    config = records["run"][0]["config"]["update"]
    assert config["choices"]["pruner"] == "nm_block"
    assert config["overrides"] == [*readme_command(), *FILES, DRAWN]
    assert config["pruner"]["path"]["order"] == "default"
    assert records["run"][0]["run_group"] == "nm_block"
    final = {k: v for record in records["summary"] for k, v in record["update"].items() if k.startswith("final/")}
    assert final["final/top1"] == summary["top1"]
    assert records["exit"] == [{"exit_code": 0, "runtime": records["exit"][0]["runtime"]}]

    again = start(*readme_command(), *FILES, DRAWN)
    assert "finished before" in again.stdout
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert "epoch 1" not in again.stdout


def state_of(directory):
    return torch.load(checkpoints(directory / "checkpoints")[-1], weights_only=True)


def assert_same_run(directory, reference):
    ours, theirs = state_of(directory), state_of(reference)
    assert ours["step"] == theirs["step"]
    assert all(torch.equal(value, theirs["model"][name]) for name, value in ours["model"].items())
    for name, state in ours["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], theirs["optimizer"]["state"][name]["momentum_buffer"])
    tables = []
    for place in (directory, reference):
        with (place / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        tables.append([{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows])
    assert tables[0] == tables[1]
    assert (directory / "probes.csv").read_text() == (reference / "probes.csv").read_text()


RESUMED = ("pruner=nm_step", "pruner.n=2", "pruner.m=4", *TINY, "trainer.max_steps_per_epoch=16", "trainer.probes=true")
RESUMED = (*RESUMED, "trainer.checkpoint_every=4it", "data.eval_placements=1")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    run(composed(*RESUMED, f"run_dir={directory}"))
    return directory


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 75),
        pytest.param(signal.SIGINT, 75, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(start, tmp_path, whole_run, number, status):
    process = begin(tmp_path, *RESUMED, "run_dir=broken")
    second_epoch = tmp_path / "broken" / "checkpoints" / "step-000000020.pt"
    wait_for(process, second_epoch.exists)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert 20 <= state_of(tmp_path / "broken")["step"] < 64
    if status == 75:
        assert json.loads((tmp_path / "broken" / "summary.json").read_text())["status"] == "stopped"
        assert "the same command goes on from here" in output
    done = start(*RESUMED, "run_dir=broken")
    assert re.search(r"going on from step \d+ of 64", done.stdout)
    run_dir_of(done, tmp_path)
    assert_same_run(tmp_path / "broken", whole_run)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "pool"])
def test_a_multirun_gives_each_job_its_own_run_and_outlives_a_failing_one(start, tmp_path, launcher):
    done = start("-m", f"launcher={launcher}", "pruner=nm,nm_step", "optimizer.lr=0.1,1e30", "optimizer.warmup=0",
                 *FILES, "trainer.epochs=2", "trainer.probes=false")  # fmt: skip
    summaries = {path.parent: json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/*/summary.json")}
    assert sorted((s["pruner"], s["status"]) for s in summaries.values()) == [
        ("nm", "failed"),
        ("nm", "finished"),
        ("nm_step", "failed"),
        ("nm_step", "finished"),
    ]
    assert done.returncode == 3
    assert done.stderr.count(") failed: diverged") == 2  # each job says so at once; the last line repeats the first
    assert "Traceback" not in done.stderr
    for directory, summary in summaries.items():
        records = wandb_records(directory)
        assert records["run"][0]["run_id"] == f"{summary['config_hash']}-seed0"
        assert records["exit"][0].get("exit_code", 0) == (0 if summary["status"] == "finished" else 3)


@pytest.mark.slow
def test_logger_none_does_not_import_wandb(start, tmp_path):
    (tmp_path / "wandb.py").write_text("raise ImportError('wandb must not be imported')")
    done = start(*TINY, "trainer.epochs=1", "trainer.max_steps_per_epoch=1", PYTHONPATH=str(tmp_path))
    directory = run_dir_of(done, tmp_path)
    assert not (directory / "wandb").exists()


def test_run_dir_is_refused_in_a_multirun(fork, tmp_path):
    done = fork("-m", "run_dir=x", "seed=0,1", *TINY, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 2
    assert "the jobs of a multirun have a directory each" in done.stderr
