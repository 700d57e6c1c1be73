"""From run directories to rows: hand-made directories whose numbers can be derived."""

import gzip
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from midstate.study import columns, tables
from midstate.study.claims import read_claims
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
        metrics = pd.DataFrame(
            {"epoch": [1, 2], "progress": [0.5, 1.0], "churn": [0.2, 0.4], "revived": [0.0, 0.1],
             "val/top1": [60.0, 70.0], "seconds": [1.0, 1.0]}
        )  # fmt: skip
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
    assert row["log_relative_variance"] == pytest.approx(np.log(1 / 41 / (42 / 41) ** 2), rel=1e-5)
    assert np.isnan([row["just_pruned"], row["recovered"], row["half_correlation"]]).all()  # not measured


def test_excess_is_what_exceeds_the_same_loss_a_halving():
    # 4 -> 3 -> 2 -> 1 in proportion: 10 points a halving.
    proportional = 10 * np.log2([4 / 3, 3 / 2, 2])
    assert columns.last_excess(proportional, 1 / 4) == pytest.approx(0)
    proportional[-1] += 5
    assert columns.last_excess(proportional, 1 / 4) == pytest.approx(5)
    # 16 -> ... -> 1 has 15 jumps, the last of them a halving.
    assert columns.last_excess(np.array([0.0] * 14 + [7.0]), 1 / 16) == pytest.approx(7)


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


def test_rows_stay_as_they_are_written_where_new_ones_lack_a_column(tmp_path):
    path, row = tmp_path / "runs.csv", {"arm": "a", "overrides": "", "config_hash": "1", "device": "cpu"}
    none, first = (
        pd.DataFrame(columns=tables.KEY),
        [{**row, "seed": 0, "slack": 0.0}, {**row, "seed": 1, "slack": 1 / 3}],
    )
    path.write_bytes(tables._merged(path, pd.DataFrame(first), none))
    before = path.read_text().splitlines()
    path.write_bytes(tables._merged(path, pd.DataFrame([{**row, "seed": 2, "slack": None}]), none))
    assert path.read_text().splitlines()[:3] == before
    assert before[1:] == ["a,,1,cpu,0,0", "a,,1,cpu,1,0.333333"]


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
    results, old = tmp_path / "results", [run(), run(seed=1), run("other")]
    layers = pd.DataFrame({"layer": ["a", "b"], "depth": [1, 2], "kind": "first_half", "params": 12345678})
    for planned in old:  # the new run has no such table
        layers.assign(loss_rise=0.5).to_csv(planned.directory / "sensitivity.csv", index=False)
    tables.collect(old, results)
    whole = (results / "sensitivity.csv").read_text().splitlines()
    path = results / "runs.csv"
    path.write_text(path.read_text().replace("12345678e901", "an-older-one"))
    shutil.rmtree(old[0].directory)
    tables.collect([run(), run(seed=2)], results)
    for name in ("runs.csv", "epochs.csv", "probes.csv"):
        rows = tables.read_table(results / name)[["arm", "seed"]].drop_duplicates()
        assert rows.to_numpy().tolist() == [["arm", 0], ["arm", 2], ["other", 0]]
    assert (results / "sensitivity.csv").read_text().splitlines() == [whole[0], *whole[-2:]]  # of `other`, as it was


def test_relative_variance_does_not_know_the_scale_of_the_loss():
    draws = np.random.default_rng(0)
    losses = pd.DataFrame({"loss": 2 + draws.normal(0, 0.1, 500)})
    small, large = columns.instability(losses), columns.instability(1e6 * losses)
    assert large["log_relative_variance"] == pytest.approx(small["log_relative_variance"])
    assert large["log_loss_variance"] == pytest.approx(small["log_loss_variance"] + 2 * np.log(1e6))


def test_recovery_has_two_columns(run, tmp_path):
    measured = run(recovery={"images": 10000, "just_pruned": 41.5, "finished": 80.25})
    tables.collect([measured, run(seed=1)], tmp_path / "results")
    rows = tables.read_runs(tmp_path / "results")
    assert rows[["just_pruned", "recovered"]].to_numpy()[0].tolist() == [41.5, 80.25]
    assert rows[["just_pruned", "recovered"]].iloc[1].isna().all()


RISES = {"first_half": [0.1, 0.2, 0.4, 0.3], "second_half": [0.5, 0.6, 0.7, 0.8]}  # ranks 1 2 4 3 and 1 2 3 4
FALLING = [0.4, 0.3, 0.2, 0.1]


@pytest.mark.parametrize("others", [(), ("share",), ("share", "params", "noise")])
def test_halves_have_a_correlation_whatever_else_was_measured(run, tmp_path, others):
    planned = run()
    rows = [
        {"layer": name, "depth": i, "params": 100 + i, "kind": kind, "removed": 1, "top1_drop": 0.0, "loss_rise": rise}
        for kind, rises in {**RISES, **dict.fromkeys(others, FALLING)}.items()
        for i, (name, rise) in enumerate(zip("abcd", rises, strict=True))
    ]
    order = np.random.default_rng(1).permutation(len(rows))  # layers are told by name, not by place
    pd.DataFrame([rows[i] for i in order]).to_csv(planned.directory / "sensitivity.csv", index=False)
    tables.collect([planned], tmp_path / "results")
    row = tables.read_runs(tmp_path / "results").iloc[0]
    assert row["half_correlation"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # Spearman's: two ranks differ by one
    assert ("depth_correlation" in row) == ("share" in others)
    if len(others) == 3:
        assert row["depth_correlation"] == pytest.approx(-1)


def test_losses_are_kept_of_arms_whose_claim_says_so(run, tmp_path):
    keeping, other = read_claims(["C7", "C9"], edition=1)
    keeping, other = replace(keeping, keep_losses=True), replace(other, keep_losses=False)
    arm, left_out = keeping.all_arms[0], next(arm for arm in other.all_arms if arm not in keeping.all_arms)
    results, claims = tmp_path / "results", [keeping, other]
    tables.collect([run(arm), run(arm, seed=1), run(left_out)], results, claims)
    path = results / "losses.csv.gz"
    rows = tables.read_table(path)
    assert list(rows) == ["arm", "overrides", "seed", "step", "loss"]
    assert rows.groupby(["arm", "overrides", "seed"]).size().to_dict() == {
        (arm, "data=digits", 0): 41, (arm, "data=digits", 1): 41
    }  # fmt: skip
    assert rows[rows.seed == 1][["step", "loss"]].iloc[20].tolist() == [21, 2]
    before = path.read_bytes()
    assert before[4:8] == bytes(4)  # no time in the header
    assert gzip.decompress(before).startswith(b"arm,overrides,seed,step,loss\n")
    # Again the same bytes; a run's new rows replace its old ones, whose directory may be gone.
    again = PlannedRun(arm, ("data=digits",), 0, "12345678e901")
    tables.collect([again], results, claims)
    assert path.read_bytes() == before
    pd.DataFrame({"step": [1, 2, 3], "loss": [9.0, 8.0, 9.5]}).to_csv(again.directory / "losses.csv", index=False)
    tables.collect([again], results, claims)
    rows = tables.read_table(path)
    assert rows.loss.tolist()[:3] == [9, 8, 9.5]
    assert len(rows) == 3 + 41


def test_no_losses_are_kept_unless_a_claim_says_so(run, tmp_path):
    (claim,) = read_claims(["C7"], edition=1)
    tables.collect([run(claim.all_arms[0])], tmp_path / "results", [replace(claim, keep_losses=False)])
    assert not (tmp_path / "results" / "losses.csv.gz").exists()


def test_accuracy_in_the_ramp_is_of_the_epochs_before_its_end():
    """The middle is the epoch nearest to half of the way; before the last jump is the last epoch on the way."""
    epochs = pd.DataFrame({"progress": [0.2, 0.45, 0.7, 0.95, 1.0, 1.0], "val/top1": [80.0, 70, 60, 50, 55, 65]})
    assert columns.along_the_ramp(epochs) == {"top1_mid_ramp": 70, "top1_before_last_jump": 50}
    assert set(columns.along_the_ramp(epochs.assign(progress=1.0)).values()) == {65}
