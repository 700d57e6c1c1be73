"""Disks that are full, become read-only or are forbidden in the middle of a run: real file systems of a few MiB."""

import json
import os
import shutil
import subprocess

import pytest
from conftest import TINY, assert_checkpoints_whole, begin, composed, wait_for

from faults.compare import differences
from midstate.runs import checkpoint
from midstate.runs.run import run

pytestmark = pytest.mark.slow

JOB = ("pruner=nm", *TINY, "trainer.epochs=6", "trainer.max_steps_per_epoch=8", "trainer.checkpoint_every=3it")


def mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A function that mounts an empty file system of some KiB on a directory below `tmp_path`."""
    mounted = []

    def make(name, kilobytes):
        place = tmp_path / name
        place.mkdir(parents=True)
        if not mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)):
            pytest.skip("only root may mount a file system")
        mounted.append(place)
        return place

    yield make
    for place in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    run(composed(*JOB, f"run_dir={directory}"))
    return directory


def has_checkpoints(directory):
    return lambda: len(checkpoint.checkpoints(directory / "checkpoints")) == 2


def assert_failed_and_whole(process, what, directory):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert_said_and_whole(errors, what, directory)


def assert_said_and_whole(errors, what, directory):
    assert f"run failed: {what} cannot be written" in errors
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert not [path for path in directory.rglob(".*") if path.name != ".lock"], "a temporary file is left"
    assert_checkpoints_whole(directory)
    if (directory / "summary.json").exists():
        assert json.loads((directory / "summary.json").read_text())["status"] in ("failed", "finished")


def assert_went_on(done, directory, reference):
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stdout
    assert differences(directory, reference) == []


def test_a_full_disk_stops_at_a_checkpoint_and_keeps_those_before(disk, start, whole_run):
    directory = disk("run", 2048)  # two checkpoints of 0.9 MiB; none beside them
    stopped = start(*JOB, f"run_dir={directory}")
    assert stopped.returncode == 3, stopped.stderr
    assert_said_and_whole(stopped.stderr, "a checkpoint", directory)
    assert len(checkpoint.checkpoints(directory / "checkpoints")) == 2
    assert mount("-o", "remount,size=16m", str(directory))
    assert_went_on(start(*JOB, f"run_dir={directory}"), directory, whole_run)


def test_a_disk_that_others_fill_stops_at_a_table(disk, start, whole_run):
    directory = disk("run", 16384)
    process = begin(directory.parent, *JOB, "trainer.checkpoint_every=8it", f"run_dir={directory}")
    wait_for(process, has_checkpoints(directory))
    fill(directory)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "cannot be written" in errors
    assert len((directory / "metrics.csv").read_text().splitlines()) >= 2
    (directory / "ballast").unlink()
    assert_went_on(start(*JOB, f"run_dir={directory}"), directory, whole_run)


def fill(directory):
    with (directory / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            while True:
                try:
                    file.write(b"0" * size)
                except OSError:
                    break


def test_a_disk_without_any_room_is_said_at_once(disk, start):
    directory = disk("run", 4)
    refused = start(*JOB, f"run_dir={directory}")
    assert refused.returncode == 3, refused.stderr
    assert_said_and_whole(refused.stderr, "config.yaml", directory)


def test_a_disk_that_becomes_read_only(disk, start, whole_run):
    directory = disk("run", 16384)
    process = begin(directory.parent, *JOB, f"run_dir={directory}")
    wait_for(process, has_checkpoints(directory))
    # Of a directory that holds an open file only a part can be made read-only from outside.
    part = str(directory / "checkpoints")
    assert mount("--bind", part, part)
    wait_for(process, lambda: mount("-o", "remount,bind,ro", part))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "a checkpoint cannot be written" in errors
    assert "(Read-only file system); what was written before is whole" in errors
    subprocess.run(["umount", part], check=True)
    assert mount("-o", "remount,ro", str(directory))
    refused = start(*JOB, f"run_dir={directory}")
    assert refused.returncode == 2
    assert "must be a directory that can be written" in refused.stderr
    assert mount("-o", "remount,rw", str(directory))
    assert_went_on(start(*JOB, f"run_dir={directory}"), directory, whole_run)


def test_figures_without_room_are_drawn_by_the_same_command_later(disk, start, tmp_path):
    figures = disk("run/figures", 64)  # the first picture alone takes more
    done = start(*JOB, "machine.figures=true", "run_dir=run")
    assert done.returncode == 0, done.stderr
    assert "figures cannot be written (No space left on device); the run goes on" in done.stdout
    assert not list(figures.iterdir())
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    assert mount("-o", "remount,size=4m", str(figures))
    again = start(*JOB, "machine.figures=true", "run_dir=run")
    assert "finished before" in again.stdout
    assert {path.suffix for path in figures.iterdir()} == {".png", ".svg"}
    assert len(list(figures.iterdir())) == 6


@pytest.mark.parametrize("size", [4, 64])
def test_wandb_without_room_takes_nothing_along(disk, start, tmp_path, size, whole_run):
    disk("run/wandb", size)
    done = start(*JOB, "logger=wandb", "run_dir=run")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert differences(tmp_path / "run", whole_run) == []


def test_a_directory_that_becomes_forbidden(tmp_path, whole_run):
    # What root may do in spite of permissions is taken from it.
    plain = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if plain and not shutil.which("setpriv"):
        pytest.skip("root is stopped by no permission, and setpriv is not installed")
    directory = tmp_path / "run"
    process = begin(directory.parent, *JOB, f"run_dir={directory}", before=plain)
    wait_for(process, has_checkpoints(directory))
    (directory / "checkpoints").chmod(0o555)
    assert_failed_and_whole(process, "a checkpoint", directory)
    (directory / "checkpoints").chmod(0o755)
    latest = checkpoint.checkpoints(directory / "checkpoints")[-1]
    latest.chmod(0o000)
    again = begin(directory.parent, *JOB, f"run_dir={directory}", before=plain)
    output, errors = again.communicate(timeout=120)
    done = subprocess.CompletedProcess(again.args, again.returncode, output, errors)
    assert_went_on(done, directory, whole_run)  # from the one before
