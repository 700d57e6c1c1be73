"""An allocation taken from an experiment's runs: each run uses the scheme that the run of its own seed has found."""

import csv
import json
import shutil

import pytest
from conftest import TINY, composed

from midstate.common.errors import ConfigError
from midstate.runs.plan import Plan
from midstate.runs.run import run

SHORT = (*TINY, "trainer.epochs=2", "trainer.max_steps_per_epoch=3")
FIXED = ("pruner=filter", "pruner/allocation=scheme", "schedule=one_shot", "schedule.start=0")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two runs that rank globally, as they lie under outputs/."""
    directory = tmp_path_factory.mktemp("outputs") / "found"
    for seed in (0, 1):
        place = f"run_dir={directory / 'abc' / f'seed{seed}'}"
        run(composed(*SHORT, "pruner=global_filter", "pruner.sparsity=0.6", f"seed={seed}", place))
    return directory


@pytest.mark.parametrize("seed", [0, 1])
def test_the_widths_are_those_of_the_same_seed_from_the_first_step_on(found, seed, tmp_path):
    run(composed(*SHORT, *FIXED, f"pruner.scheme={found}", f"seed={seed}", f"run_dir={tmp_path / 'widths'}"))
    levels = json.loads((found / "abc" / f"seed{seed}" / "scheme.json").read_text())["levels"]
    summary = json.loads((tmp_path / "widths" / "summary.json").read_text())
    kept = {layer["name"]: round(layer["kept"] * layer["shape"][0]) for layer in summary["layers"]}
    assert kept == levels
    assert summary["flipflop"] == 0
    rows = list(csv.DictReader((tmp_path / "widths" / "metrics.csv").open()))
    assert len({row["kept"] for row in rows}) == 1
    assert float(rows[-1]["churn"]) == 0


def test_two_seeds_have_found_different_widths(found):
    schemes = [json.loads((found / "abc" / f"seed{seed}" / "scheme.json").read_text()) for seed in (0, 1)]
    assert schemes[0] != schemes[1]  # else the test above could not tell them apart


def test_all_seeds_are_one_configuration_whose_identity_is_that_of_the_runs(found):
    plans = [Plan.of(composed(*SHORT, *FIXED, f"pruner.scheme={found}", f"seed={seed}")) for seed in (0, 1)]
    assert plans[0].hash == plans[1].hash
    made_by = json.loads((found / "abc" / "seed0" / "summary.json").read_text())["config_hash"]
    assert plans[0].config["pruner"]["scheme_of"] == made_by
    by_configuration = Plan.of(composed(*SHORT, *FIXED, f"pruner.scheme={found / 'abc'}"))
    by_file = Plan.of(composed(*SHORT, *FIXED, f"pruner.scheme={found / 'abc' / 'seed0' / 'scheme.json'}"))
    assert by_configuration.hash == plans[0].hash != by_file.hash  # a file may be edited: its content counts


def test_a_run_that_is_not_finished_lends_nothing(found, tmp_path):
    shutil.copytree(found, tmp_path / "found")
    (tmp_path / "found" / "abc" / "seed0" / "summary.json").unlink()  # killed after its scheme was written
    with pytest.raises(ConfigError, match="holds no finished runs of seed 0"):
        Plan.of(composed(*SHORT, *FIXED, f"pruner.scheme={tmp_path / 'found'}"))


def test_of_several_configurations_one_is_to_be_named_for_all_seeds(found, tmp_path):
    shutil.copytree(found, tmp_path / "found")
    shutil.copytree(found / "abc", tmp_path / "found" / "abd")
    with pytest.raises(ConfigError, match=f"name one of {tmp_path}/found/abc, {tmp_path}/found/abd$"):
        Plan.of(composed(*SHORT, *FIXED, f"pruner.scheme={tmp_path / 'found'}"))


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("nowhere", "pruner: scheme='nowhere': no such file or directory"),
        ("nowhere.json", "pruner.scheme='nowhere.json': cannot be read"),
        (".", "holds no finished runs of seed 0 with this network and data, one is needed; run that experiment first"),
    ],
)
def test_what_is_not_there_is_refused(scheme, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        Plan.of(composed(*SHORT, *FIXED, f"pruner.scheme={scheme}"))
