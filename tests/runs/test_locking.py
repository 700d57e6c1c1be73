"""One process a run directory, with real processes."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import TINY, begin, wait_for

from midstate.common.errors import ConfigError
from midstate.runs.locking import FILE, locked

HOLD = """
import sys, time
from pathlib import Path
from midstate.runs.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_held_directory_is_refused_naming_its_holder(holder, tmp_path):
    with pytest.raises(ConfigError, match=rf"in use by process {holder.pid} on .* since 20"), locked(tmp_path):
        pass


def test_a_dead_holder_leaves_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    with locked(tmp_path):
        pass


def test_a_holder_without_a_name_is_refused_all_the_same(holder, tmp_path):
    (tmp_path / FILE).write_text("")
    with pytest.raises(ConfigError, match="in use by another process"), locked(tmp_path):
        pass


@pytest.mark.slow
def test_a_second_run_leaves_and_the_first_is_not_disturbed(start, tmp_path):
    job = ("pruner=nm", *TINY, "trainer.epochs=40", "run_dir=run")
    first = begin(tmp_path, *job)
    wait_for(first, lambda: list(tmp_path.glob("run/checkpoints/step-*.pt")))
    second = start(*job)
    assert second.returncode == 2
    assert f"in use by process {first.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0
    assert output.splitlines()[-1] == "run_dir: run"
