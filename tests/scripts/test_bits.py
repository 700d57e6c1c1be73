"""`bits.py`: what it says of runs that take too long, and refuses."""

import sys
from multiprocessing import get_context

import pytest

import bits


def test_a_run_that_is_killed_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bits, "server", get_context("spawn"))  # which imports nothing beforehand
    monkeypatch.setattr(bits, "LIMIT", 0)
    assert not bits._run(tmp_path, "dense", ["pruner=dense"])
    assert capsys.readouterr().err.startswith("dense: killed after 0 s\n")


def test_no_jobs_at_all_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bits.py", str(tmp_path), "--no-runs", "--jobs", "0"])
    with pytest.raises(SystemExit) as ended:
        bits.main()
    assert ended.value.code == 2
    assert "--jobs 0: must be 1 or more" in capsys.readouterr().err
