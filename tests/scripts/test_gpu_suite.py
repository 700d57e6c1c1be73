"""The checks of scripts/gpu_suite.sh, on the CPU: that each of them can hold, and that one can be broken."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from benchmarks import gpu
from benchmarks.common import ENVIRONMENT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks_are_the_cpus", "the_same_bits_twice", "fused_kernels", "a_checkpoint_goes_on"])
def test_checks_hold(name):
    assert gpu.CHECKS[name](gpu.Size("cpu"))["holds"]


def test_what_breaks_is_told_and_ends_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "CHECKS", {"broken": lambda size: 1 / 0, "other": lambda size: {"holds": True}})
    result = gpu.suite("cpu")
    assert [each["holds"] for each in result["checks"]] == [False, True]
    assert "ZeroDivisionError" in result["checks"][0]["error"]
    assert {"git", "torch", "device"} <= set(result["machine"])
    assert capsys.readouterr().out.startswith("BROKEN  broken")


def test_masks_that_differ_do_not_hold(monkeypatch):
    calls = []

    def moody(weight):
        calls.append(weight)
        return torch.full(weight.shape, len(calls) % 2 == 0)

    monkeypatch.setattr(gpu, "_functions", lambda: {"moody": moody})
    result = gpu.CHECKS["masks_are_the_cpus"](gpu.Size("cpu"))
    assert not result["holds"]
    assert len(result["differing"]) == 6


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_written(tmp_path):
    for command in (
        ["bash", str(ROOT / "scripts/gpu_suite.sh")],
        [sys.executable, "-m", "benchmarks.gpu", "--json"],
    ):
        command = [*command, str(tmp_path / "x.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=ENVIRONMENT)
        assert done.returncode == 1
        assert "there is no CUDA device here" in done.stderr
    assert not (tmp_path / "x.json").exists()


def test_losses_are_compared_by_their_largest_distance():
    result = gpu._close([1.0, 2.0], [1.0, 2.1], 0.04)
    assert json.loads(json.dumps(result)) == {"holds": False, "largest_relative_difference": 0.047619, "allowed": 0.04}
    assert gpu._close([1.0, 2.0], [1.0, 2.1], 0.05)["holds"]
