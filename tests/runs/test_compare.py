"""Runs side by side: the table that a sweep ends with, and scripts/compare.py on any directories."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, TINY
from scipy import stats

import compare  # scripts/compare.py
from midstate.runs.compare_table import table
from midstate.runs.figures import kept_points
from midstate.runs.groups import find_runs, group
from midstate.runs.labels import FinishedRun, labels

QUICK = (*TINY[:2], "trainer.epochs=2", "trainer.max_steps_per_epoch=3", "trainer.probes=false", "logger=none")


def call(script, place, *arguments):
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    place = tmp_path_factory.mktemp("sweep")
    done = call("train.py", place, "-m", "pruner=nm,dense", "seed=0,1", *QUICK)
    assert done.returncode == 0, done.stderr
    return place, done.stdout


def summaries(place, pruner):
    return [json.loads(path.read_text()) for path in sorted(place.glob(f"outputs/{pruner}/*/*/summary.json"))]


@pytest.mark.slow
def test_a_multirun_ends_with_a_table_of_its_runs(sweep):
    place, output = sweep
    *_, written = lines = output.splitlines()
    assert output.count("run_dir: outputs/") == 4
    assert written == "written: curves.png, curves.svg, groups.csv and runs.csv in outputs/multirun"
    after = lines[max(i for i, line in enumerate(lines) if line.startswith("run_dir: ")) + 1 :]
    assert {line.split()[0] for line in after if line.startswith("pruner=")} == {"pruner=nm", "pruner=dense"}
    assert not list(place.glob("outputs/multirun/.runs-*"))
    assert (place / "outputs/multirun/curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_mean_and_interval_over_seeds(sweep):
    place, _ = sweep
    rows = pd.read_csv(place / "outputs/multirun/groups.csv").set_index("label")
    for pruner in ("nm", "dense"):
        values = [summary["top1"] for summary in summaries(place, pruner)]
        row = rows.loc[f"pruner={pruner}"]
        low, high = stats.t.interval(0.95, 1, loc=sum(values) / 2, scale=stats.sem(values))
        assert (row.runs, row.top1) == (2, pytest.approx(sum(values) / 2))
        assert (row.top1_low, row.top1_high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.slow
def test_unfinished_runs_are_named_and_left_out(sweep, tmp_path):
    shutil.copytree(sweep[0] / "outputs", tmp_path / "outputs")
    (stopped,) = tmp_path.glob("outputs/nm/*/seed1")
    summary = json.loads((stopped / "summary.json").read_text())
    (stopped / "summary.json").write_text(json.dumps({**summary, "status": "stopped"}))
    done = call("scripts/compare.py", tmp_path, "outputs", "--out", "beside")
    assert done.returncode == 0, done.stderr
    assert f"{stopped.relative_to(tmp_path)} (stopped)" in done.stdout
    assert len(pd.read_csv(tmp_path / "beside" / "runs.csv")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["outputs", "--by", "pruner.oder"], "--by pruner.oder: no run has such a setting"),
        (["elsewhere"], "elsewhere: no such directory"),
        (["outputs/multirun"], "outputs/multirun: no finished run is there"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_compared(sweep, arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(sweep[0])
    assert compare.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"configuration error: {message}")


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_no_fault_of_the_configuration(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(sweep[0])
    (tmp_path / "file").touch()
    assert compare.main(["outputs", "--out", str(tmp_path / "file" / "beside")]) == 3
    assert f"comparison failed: --out {tmp_path / 'file' / 'beside'}: cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_loss_that_is_not_finite_has_no_mean(sweep, tmp_path):
    shutil.copytree(sweep[0] / "outputs", tmp_path / "outputs")
    (one,) = tmp_path.glob("outputs/nm/*/seed1/summary.json")
    one.write_text(json.dumps({**json.loads(one.read_text()), "loss": float("nan")}))
    done = call("scripts/compare.py", tmp_path, "outputs", "--out", "beside")
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "beside" / "groups.csv").set_index("label")
    assert list(rows.loss.isna()) == [label == "pruner=nm" for label in rows.index]
    assert not rows.top1.isna().any()


@pytest.mark.slow
def test_groups_by_a_setting(sweep):
    runs, left_out = find_runs([sweep[0] / "outputs"])
    assert (len(runs), left_out) == (4, [])
    by_seed = group(runs, ["seed"])
    assert [(each.label, len(each.runs), each.num_configurations) for each in by_seed] == [
        ("seed=0", 2, 2),
        ("seed=1", 2, 2),
    ]


def run(hash, typed, **settings):
    config = {key: value for key, value in settings.items() if key != "pruner"}
    summary = {"config_hash": hash, "pruner": settings.get("pruner", "nm"), "overrides": typed}
    return FinishedRun(Path(hash), config, summary)


def test_the_table_says_of_which_images_top1_is():
    def one(name, **more):
        each = run(name, [f"seed={name}"], pruner="nm", seed=0)
        each.summary.update(top1=80.0, params_nonzero=1, macs_sparse=1, wall_seconds=1.0, data="fake", seed=0, **more)
        return each

    assert "top-1: test data, last epoch" in table(group([one("a"), one("b")]))
    mixed = table(group([one("a"), one("b", final_images="validation")]))
    assert "top-1: test or validation data, last epoch" in mixed
    assert "these are not to be compared" in mixed


def test_labels_are_what_differs_as_typed():
    first = run("a", ["optimizer.lr=1e-3", "seed=0"], optimizer={"lr": 0.001}, seed=0)
    second = run("b", ["seed=0", "run_dir=x"], optimizer={"lr": 0.1}, seed=0)
    assert labels([first, second]) == ["optimizer.lr=1e-3", "optimizer.lr=0.1"]
    assert labels([run("a", [], pruner="nm"), run("b", [], pruner="lbc")]) == ["pruner=nm", "pruner=lbc"]
    assert labels([run("a", []), run("b", [])]) == ["a", "b"]
    pair = [run(name, [f"experiment={name}"]) for name in ("one_of_four", "two_of_eight")]
    for each in pair:
        each.summary["choices"] = {"experiment": each.summary["config_hash"]}
    assert labels(pair) == ["experiment=one_of_four", "experiment=two_of_eight"]


@pytest.mark.slow
def test_a_run_says_what_it_is(sweep):
    place, output = sweep
    (summary, _) = summaries(place, "nm")
    assert summary["model"] == summary["model_name"] == "resnet8"
    assert [word.lower() for word in summary["overrides"]] == ["pruner=nm", "seed=0", *QUICK]  # Hydra: false is False
    assert summary["choices"]["pruner/pattern"] == "nm"
    said = " ".join(output.split())  # columns are as wide as the longest name
    for line in ("network resnet8, 77,754 parameters", "in scope 8 of 10 layers", "none, all layers stay dense"):
        assert line in said
    assert "stay dense  conv1, classifier (classifier)" in output


@pytest.mark.slow
def test_one_page_a_run(sweep):
    for page in sweep[0].glob("outputs/*/*/*/report.html"):
        text = page.read_text()
        assert text.count("data:image/svg+xml;base64,") == 3
        assert "http://" not in text and "https://" not in text  # noqa: PT018
        assert "python train.py pruner=" in text


def test_the_kept_share_before_the_first_step():
    rows = [{"epoch": epoch, "kept": kept, "progress": p} for epoch, kept, p in ((1, 0.5, 0.5), (2, 0.1, 1.0))]
    target = [{"epoch": 1, "kept": 0.1, "progress": 1.0}]
    jump = {"step": 0, "progress": 1.0}
    assert kept_points(rows, [{"step": 3, "progress": 0.5}])[0] == (0, 1.0)  # on its way within the first epoch
    assert kept_points(target, [jump]) == [(0, 0.1), (1, 0.1)]  # at the target from the first step on
    assert kept_points(target, []) == [(1, 0.1)]  # not known
    assert kept_points([{"epoch": 1, "kept": 1.0, "progress": 0.0}], [])[0] == (0, 1.0)
