"""scripts/sensitivity.py on finished runs, and its table as scores."""

import json
import shutil

import pandas as pd
import pytest
from conftest import TINY, composed

from midstate.engine.levels import COLUMNS
from midstate.runs.plan import Plan
from midstate.runs.run import run
from sensitivity import main

QUICK = (*TINY, "trainer.epochs=1", "trainer.max_steps_per_epoch=3")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    place = tmp_path_factory.mktemp("dense")
    run(composed(*QUICK, "pruner=dense", f"run_dir={place}"))
    return place


def measure(place, *arguments):
    return main([str(place), "--images", "40", *arguments])


@pytest.fixture(scope="module")
def table(dense):
    arguments = ("--kinds", "nm", "bits", "taylor", "--levels", "nm=1:8,2:8,4:8", "bits=2,8")
    assert measure(dense, *arguments) == 0
    return dense / "sensitivity_by_level.csv"


def test_a_run_gets_a_table_and_a_figure(dense, table):
    rows = pd.read_csv(table)
    assert tuple(rows) == COLUMNS
    assert rows.layer.nunique() == 10
    assert len(rows) == 10 * 5
    assert rows.taylor.notna().all()
    assert rows.hessian_trace.isna().all()
    assert (rows.groupby("layer").macs.first() >= rows.groupby("layer").params.first()).all()
    for kind in ("png", "svg"):
        assert (dense / "figures" / f"sensitivity_by_level.{kind}").stat().st_size > 1000


def test_lines_tell_the_ends_and_the_correlation_with_depth(dense, tmp_path, capsys):
    assert measure(dense, "--kinds", "taylor", "hessian", "--out", str(tmp_path)) == 0
    taylor, hessian, written = capsys.readouterr().out.splitlines()
    assert taylor.startswith("taylor: most sensitive ")
    assert "rank correlation with depth" in hessian
    assert "given log parameters" in hessian
    assert written.startswith(f"written: {tmp_path}")
    assert len(pd.read_csv(tmp_path / "sensitivity_by_level.csv")) == 10


@pytest.mark.parametrize("settings", [("pruner=nm_mixed",), ("quantizer=uniform", "quantizer/allocation=budget")])
def test_the_table_serves_as_scores_by_its_content(table, tmp_path, settings):
    group = settings[-1].split("=")[0].split("/")[0]
    copied, changed = tmp_path / "copied.csv", tmp_path / "changed.csv"
    shutil.copy(table, copied)
    changed.write_text(table.read_text().replace(",2,", ",1,"))

    def planned(*more):
        return Plan.of(composed(*QUICK, *settings, *more))

    def scored(path):
        return planned(f"{group}.score=file", f"{group}.scores={path}")

    assert scored(table).hash == scored(copied).hash
    assert len({scored(table).hash, scored(changed).hash, planned().hash}) == 3


@pytest.mark.parametrize(
    "settings",
    [
        ("pruner=nm_mixed", "pruner.score=file", "pruner.scores={table}"),
        ("quantizer=uniform", "quantizer.weight_bits=4", "quantizer/allocation=budget", "quantizer.score=file",
         "quantizer.scores={table}"),
    ],
)  # fmt: skip
def test_runs_take_it_and_are_measured_themselves(table, tmp_path, settings):
    run(composed(*QUICK, *(each.format(table=table) for each in settings), f"run_dir={tmp_path}"))
    levels = json.loads((tmp_path / "scheme.json").read_text())
    assert levels.get("levels") or levels.get("bits")
    assert measure(tmp_path, "--kinds", "weights", "input_bits", "--levels", "weights=0.5", "input_bits=2") == 0
    rows = pd.read_csv(tmp_path / "sensitivity_by_level.csv")
    assert set(rows.kind) == {"weights", "input_bits"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kinds", "bit"), "did you mean bits"),
        (("--levels", "bits=9"), "must be bits from 2 to 8"),
        (("--levels", "nm=9:8"), "must be N:M"),
        (("--levels", "weights=half"), "must be a share"),
        (("--kinds", "nm", "--levels", "bits=2"), "bits is not among the kinds"),
        (("--images", "0"), "images=0"),
    ],
)
def test_what_there_is_not_is_refused(dense, capsys, arguments, message):
    assert measure(dense, *arguments) == 2
    assert message in capsys.readouterr().err


def test_no_run_is_refused(tmp_path, capsys):
    assert measure(tmp_path / "nowhere") == 2
    assert "no such directory" in capsys.readouterr().err
