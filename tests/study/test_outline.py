"""What a dry run says without composing anything, beside what a sweep plans."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from midstate.study import planning, remembered
from midstate.study.claims import read_claims
from midstate.study.outline import UNKNOWN, _has_runs, outline


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "arms"), [("quick", None), ("full", None), ("quick", "c2_bits_*")])
def test_it_names_the_runs_of_the_plan_and_in_its_order(scale, arms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claims = read_claims(["C1", "C2", "C3"])
    planned = planning.plan_runs(claims, scale, num_seeds=1, arms=arms)
    outlined = outline(claims, scale, num_seeds=1, arms=arms)
    assert [run.name for run in outlined] == [run.name for run in planned]
    parents = [[run.parent and run.parent.name for run in runs] for runs in (outlined, planned)]
    assert parents[0] == parents[1]
    assert all(run.config_hash.startswith(UNKNOWN) for run in outlined)  # nothing was composed


def test_experiments_that_have_runs_are_looked_up_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _has_runs.cache_clear()  # what another test found in its own folder
    (claim,) = read_claims(["C2"], edition=1)
    identity = planning.identity("c2_resnet20", ())[0]
    directory = tmp_path / "outputs" / "c2_resnet20" / identity / "seed0"
    directory.mkdir(parents=True)
    (directory / "summary.json").write_text('{"status": "finished"}')
    runs = outline([claim], "quick")
    assert [run.seed for run in runs if run.finished] == [0]
    assert {run.config_hash for run in runs if run.experiment == "c2_resnet20"} == {identity}
    assert remembered.read() == {("c2_resnet20", ()): identity}
    record = json.loads((tmp_path / remembered.FILE).read_text())
    (tmp_path / remembered.FILE).write_text(json.dumps({**record, "of": "other code"}))
    assert remembered.read() == {}


@pytest.mark.slow
def test_a_dry_run_says_what_missing_would_do_and_composes_nothing(tmp_path):
    (tmp_path / "results").symlink_to(ROOT / "results")
    command = [
        sys.executable,
        str(ROOT / "scripts" / "reproduce.py"),
        "--edition",
        "first",
        "--scale",
        "full",
        "--dry-run",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second, *runs = done.stdout.splitlines()
    assert first.startswith(f"full: {len(runs)} runs, 0 done, {len(runs)} to do")
    counted = int(second.removeprefix("with --missing: ").partition(" of these count as done")[0])
    assert f"; {len(runs) - counted} to do" in second
    assert counted > 500
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
