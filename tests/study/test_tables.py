"""From run directories to rows: hand-made directories whose numbers can be derived."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from midstate.study import tables
from midstate.study.forecast import Rows
from midstate.study.planning import PlannedRun

SUMMARY = {
    "status": "finished", "data": "clutter", "model": "resnet8", "pruner": "nm_step", "epochs": 2, "top1": 70.0,
    "top5": 99.0, "loss": 1.0, "val_top1": 71.0, "flipflop": 0.1, "sparsity": 0.75, "params_prunable": 100,
    "params_nonzero": 40, "params_sparse": 39, "macs_sparse": 10, "macs_dense": 100, "wall_seconds": 12.0,
    "config_hash": "12345678e901", "numerics": 1, "git": "1234567e8901", "device": "cpu", "torch": "2", "threads": 1,
    "allocation": {"params_slack": 0.01, "macs_slack": 0.02, "moved": 0.3}, "layers": [{"target": 1 / 4}],
}  # fmt: skip
CONFIG = {"logger": {"tags": ["C8-1a2b3c4d", "other"]}, "pruner": {"steps": "single", "granularity": "layer"}}
GAPS = [1.0, 2.0, 6.0]  # of 4 -> 3 -> 2 -> 1


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of N-progressive to 1:4, in a fresh outputs/."""
    monkeypatch.chdir(tmp_path)

    def make(arm="arm", seed=0, gaps=GAPS, **summary):
        planned = PlannedRun(arm, ("data=digits",), seed, "12345678e901")
        directory = planned.directory
        directory.mkdir(parents=True)
        (directory / "summary.json").write_text(json.dumps({**SUMMARY, "seed": seed, **summary}))
        (directory / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        metrics = pd.DataFrame({"epoch": [1, 2], "churn": [0.2, 0.4], "revived": [0.0, 0.1], "seconds": [1.0, 1.0]})
        metrics.to_csv(directory / "metrics.csv", index=False)
        steps = range(1, len(gaps) + 1)
        probes = pd.DataFrame(
            {"step": steps, "progress": [k / len(gaps) for k in steps], "from": [k - 1 for k in steps], "to": steps,
             "gap": [2 * gap for gap in gaps], "gap_bn": gaps}
        )  # fmt: skip
        probes.to_csv(directory / "probes.csv", index=False)
        losses = pd.DataFrame({"step": range(1, 42), "loss": [1.0] * 20 + [2.0] + [1.0] * 20})
        losses.to_csv(directory / "losses.csv", index=False)
        return planned

    return make


def test_a_row_is_what_the_run_wrote(run, tmp_path):
    tables.collect([run()], tmp_path / "results")
    (row,) = tables.read_runs(tmp_path / "results").to_dict("records")
    assert (row["arm"], row["overrides"], row["seed"], row["claims"]) == ("arm", "data=digits", 0, "C8-1a2b3c4d")
    assert (row["config_hash"], row["git"]) == ("12345678e901", "1234567e8901")  # no numbers, though they look so
    assert (row["top1"], row["params"], row["params_sparse"], row["macs"], row["moved"]) == (70, 40, 39, 10, 0.3)
    assert (row["churn"], row["revived"]) == (pytest.approx(0.3), pytest.approx(0.05))
    assert (row["gap_last"], row["gap_raw_last"], row["gap_max"], row["gap_sum"]) == (6, 12, 6, 9)
    assert (row["gap_first_third"], row["gap_last_third"], row["gap_mean"]) == (1, 6, 3)
    assert row["loss_variance"] == pytest.approx(1 / 41, rel=1e-5)  # one loss of 41 lies 1 above the running median
    assert row["log_loss_variance"] == pytest.approx(np.log(1 / 41), rel=1e-5)


def test_excess_is_what_exceeds_the_same_loss_a_halving():
    # 4 -> 3 -> 2 -> 1 in proportion: 10 points a halving.
    proportional = 10 * np.log2([4 / 3, 3 / 2, 2])
    assert tables.last_excess(proportional, 1 / 4) == pytest.approx(0)
    proportional[-1] += 5
    assert tables.last_excess(proportional, 1 / 4) == pytest.approx(5)
    # 16 -> ... -> 1 has 15 jumps, the last of them a halving.
    assert tables.last_excess(np.array([0.0] * 14 + [7.0]), 1 / 16) == pytest.approx(7)


def test_a_leap_has_no_thirds(run, tmp_path):
    planned = run(gaps=[5.0])
    pd.DataFrame({"step": [9], "progress": [1.0], "from": [0], "to": [15], "gap": [9.0], "gap_bn": [5.0]}).to_csv(
        planned.directory / "probes.csv", index=False
    )
    tables.collect([planned], tmp_path / "results")
    row = tables.read_runs(tmp_path / "results").iloc[0]
    assert row["gap_max"] == 5
    assert "gap_last_third" not in row


def test_new_rows_replace_those_of_the_same_run_and_leave_the_others(run, tmp_path):
    first, other = run(), run(seed=1)
    tables.collect([first, other], tmp_path / "results")
    summary = json.loads((first.directory / "summary.json").read_text())
    (first.directory / "summary.json").write_text(json.dumps({**summary, "top1": 80.0}))
    (other.directory / "summary.json").unlink()  # its directory is gone, its row stays
    tables.collect([first, other], tmp_path / "results")
    rows = tables.read_runs(tmp_path / "results")
    assert rows[["seed", "top1"]].to_numpy().tolist() == [[0, 80], [1, 70]]
    assert len(tables.read_table(tmp_path / "results" / "probes.csv")) == 6
    before = (tmp_path / "results" / "runs.csv").read_bytes()
    tables.collect([first], tmp_path / "results")
    assert (tmp_path / "results" / "runs.csv").read_bytes() == before


def test_unfinished_runs_give_no_row(run, tmp_path):
    tables.collect([run(status="stopped")], tmp_path / "results")
    assert tables.read_runs(tmp_path / "results").empty


def test_records_tell_what_is_done_and_how_long_it_takes(run, tmp_path):
    planned = run()
    tables.collect([planned], tmp_path / "results")
    rows = Rows.read(tmp_path / "results", tmp_path / "nothing")
    assert rows.has(planned)
    assert not rows.has(PlannedRun("arm", (), 1, "12345678e901"))
    assert rows.seconds_of(planned) == 12
    assert rows.seconds_of(PlannedRun("arm", (), 0, "other")) is None
    # Where nobody has looked up the identity, by arm, cell and seed.
    assert rows.has(PlannedRun("arm", ("data=digits",), 0, "? data=digits"))
    assert not rows.has(PlannedRun("arm", (), 0, "?"))


def test_rows_of_an_experiment_as_it_was_before_a_change_go(run, tmp_path):
    tables.collect([run(), run(seed=1), run("other")], tmp_path / "results")
    path = tmp_path / "results" / "runs.csv"
    path.write_text(path.read_text().replace("12345678e901", "an-older-one"))
    tables.collect([run(seed=2)], tmp_path / "results")
    rows = tables.read_runs(tmp_path / "results")
    assert rows[["arm", "seed"]].to_numpy().tolist() == [["arm", 2], ["other", 0]]
