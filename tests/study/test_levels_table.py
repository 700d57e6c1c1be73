"""From run directories to levels.csv, and from there to figure and report; small tables, made up."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib import pyplot as plt

from midstate.study import analogy, levels
from midstate.study.claims import read_claims
from midstate.study.drawing import Tables
from midstate.study.figures import draw_panels
from midstate.study.levels import levels_of
from midstate.study.report import write_report

MODEL = {"_target_": "midstate.models.CifarResNet", "blocks": [1], "widths": [4], "shortcut": "pad"}
MODEL |= {"checkpoint": "outputs/not_there", "checkpoint_of": "0123"}
AUGMENTATION = {"_target_": "midstate.data.Augmentation", "crop_padding": 0, "flip": False}
DATA = {"_target_": "midstate.data.Digits", "augmentation": AUGMENTATION}
NAMES = [f"stages.{stage}.{i}" for stage in range(2) for i in range(4)]


@pytest.fixture
def directory(tmp_path):
    """Leave a scheme in a run's directory."""

    def make(**scheme):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": MODEL, "data": DATA, "seed": 0}))
        (tmp_path / "scheme.json").write_text(json.dumps(scheme))
        return tmp_path

    return make


def test_rows_hold_bits_beside_depth_parameters_and_macs(directory):
    bits = {"stages.0.0.conv2": [3, 8], "stages.0.0.conv1": [5, None]}
    rows = pd.DataFrame(levels_of(directory(bits=bits)), columns=levels.COLUMNS)
    assert rows.layer.tolist() == ["stages.0.0.conv1", "stages.0.0.conv2"]  # in order of depth; no stem, no classifier
    assert rows.depth.tolist() == [1, 2]
    assert rows.params.tolist() == [4 * 4 * 9] * 2
    assert rows.macs.tolist() == [4 * 4 * 9 * 8 * 8] * 2
    assert rows.weight_bits.tolist() == [5, 3]
    assert rows.activation_bits.isna().tolist() == [True, False]
    assert rows.level.isna().all()


def test_rows_hold_levels_and_bits_of_runs_with_both(directory):
    (row,) = levels_of(directory(levels={"stages.0.0.conv2": 2}, bits={"stages.0.0.conv2": [4, 4]}))
    assert (row["level"], row["weight_bits"], row["activation_bits"]) == (2, 4, 4)


def test_runs_without_a_scheme_have_no_rows(tmp_path):
    assert levels_of(tmp_path) == []


@pytest.fixture(scope="module")
def c2():
    return read_claims(["C2"])[0]


def made_up(plan, left_out=(), seeds=2):
    """Levels of every arm of a figure but some, in 8 layers of two sizes."""
    draws, rows = np.random.default_rng(0), []
    for arm in [arm for arm in plan.arms if arm not in left_out]:
        for seed in range(seeds):
            for at, name in enumerate(NAMES):
                size = 100 * 4 ** (at // 4)
                nm = "_nm_" in arm
                bits = (None, None) if nm else (draws.integers(2, 9), 8)
                numbers = (arm, "", seed, name, at + 1, size, 9000, *bits, draws.choice([1, 2, 4, 8]) if nm else None)
                rows.append(dict(zip(("arm", "overrides", "seed", *levels.COLUMNS), numbers, strict=True)))
    return pd.DataFrame(rows)


def tables_of(rows, sensitivity=None):
    empty = pd.DataFrame(columns=["arm", "overrides", "seed"])
    return Tables(empty, empty, empty, empty if sensitivity is None else sensitivity, rows)


def test_every_way_that_was_run_has_its_correlation_and_no_other_has(c2):
    plan = c2.levels[0]
    found = analogy.ways(plan, tables_of(made_up(plan, ["c2_bits_ddq"])))
    assert [way.arm for way in found if way.found is None] == ["c2_bits_ddq", "c2_resnet20"]
    assert all(way.found.seeds == 2 for way in found if way.found)
    assert len(found) == sum(len(panel.arms) for panel in plan.drawing.panels if panel.kind in ("levels", "depth"))


def test_sensitivity_is_taken_of_the_same_layers(c2):
    plan = c2.levels[0]
    rows = made_up(plan)
    depths = [*enumerate(["stem", *NAMES])]
    sensitivity = [
        {"arm": "c2_resnet20", "overrides": "", "seed": seed, "layer": name, "depth": depth, "params": 100,
         "kind": kind, "loss_rise": -float(depth)}
        for seed in range(2) for depth, name in depths for kind in ("share", "noise")
    ]  # fmt: skip
    for levels_there in (rows, rows[:0]):  # without any levels, all layers count, by their parameters
        *_, last = analogy.ways(plan, tables_of(levels_there, pd.DataFrame(sensitivity)))
        assert last.arm == "c2_resnet20"
        assert last.found.plain == pytest.approx((-1, -1, -1))


def test_the_figure_says_what_was_not_run(c2):
    plan = c2.levels[0]
    figure = draw_panels(plan.drawing, c2, tables_of(made_up(plan, ["c2_bits_ddq", "c2_bits_exact"], seeds=1)))
    legend = figure.axes[0].get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    plt.close(figure)
    assert legend.get_title().get_text() == "1 seed; not run: exact solver, DDQ"
    assert labels == [*(f"HAQ, {order} first" for order in ("deepest", "shallowest", "dearest")), "the same for all"]


@pytest.mark.slow
def test_figure_and_correlations_come_into_the_report(c2, tmp_path):
    rows = made_up(c2.levels[0], ["c2_bits_ddq"])
    rows.loc[rows.arm == "c2_bits_nm_domino", "level"] = 2
    rows.to_csv(tmp_path / "levels.csv", index=False)
    written = write_report(tmp_path, [c2])
    assert tmp_path / "figures" / "c2_bits.png" in written
    assert (tmp_path / "figures" / "c2_bits.svg").is_file()
    report, page = ((tmp_path / name).read_text() for name in ("REPORT.md", "report.html"))
    assert "![c2_bits](figures/c2_bits.png)" in report
    assert "| bits of weights, budget: size | DDQ | not run |" in report
    assert "| mixed N:8, budget: parameters | DominoSearch | all layers the same |" in report
    assert "--arms 'c2_bits_*'" in report
    assert page.count("data:image/png") == 1


def test_a_report_without_rows_says_how_to_make_them(c2, tmp_path):
    write_report(tmp_path, [c2])
    report = (tmp_path / "REPORT.md").read_text()
    assert "Not run: what the layers of ResNet-20 are left, over depth" in report
    assert not (tmp_path / "figures" / "c2_bits.png").exists()
