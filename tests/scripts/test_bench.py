"""Benchmarks: that rivals do the same work as ours, and that the gate sees what is too slow. Nothing is timed here."""

import json
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import torch
from conftest import TINY, composed

from bench import main
from benchmarks import gate, mask, ranking, refresh, shares, startup, step
from benchmarks.common import ENVIRONMENT, rendered
from midstate.common.project import ROOT
from midstate.runs.plan import Plan
from midstate.sparsity import NM, SRSTE, nm_mask


def test_the_published_way_is_sr_ste():
    """Same weight forward, same gradient backward; only the way to it is another."""
    weight = torch.randn(8, 2 * step.M, 3, 3, requires_grad=True)
    ours = nm_mask(weight, step.N, step.M)
    masked = step._SortedSRSTE.apply(weight)
    assert masked.equal(weight * ours)
    masked.pow(2).sum().backward()
    published, weight.grad = weight.grad, None
    estimator = SRSTE()
    estimator.apply(weight, ours, {}).pow(2).sum().backward()
    estimator.before_step(weight, ours, {})
    assert torch.allclose(published, weight.grad)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (4, 8), (2, 16)])
def test_rivals_make_the_masks_that_ours_makes(n, m):
    weights = [torch.randn(4, 2 * m, 3, 3), torch.randn(6, m)]
    ours = [each.movedim(1, -1).reshape(-1, m) for each in mask.each_mask(NM(n, m), weights)()]
    for name, way in mask._rivals(n, m, weights).items():
        for one, other in zip(ours, way(), strict=True):
            assert one.equal(other.bool()), name


def test_the_gate_sees_what_is_too_slow():
    limits = {"copies": (lambda rows: gate._of(rows, masks="2:4")["copies"], 12)}
    for copies, holds in ((11.9, True), (12, True), (12.1, False)):
        (row,) = gate.judged([{"masks": "1:4", "copies": 99}, {"masks": "2:4", "copies": copies}], limits)
        assert row == {"what": "copies", "measured": copies, "at most": 12, "holds": holds}


def test_a_broken_limit_is_measured_again_before_it_counts(monkeypatch):
    asked = []

    def noisy(repeats):
        asked.append(repeats)
        return [{"ratio": 9 if len(asked) == 1 else 1}]

    monkeypatch.setattr(gate, "LIMITS", {"noisy": (noisy, {"ratio": (lambda rows: rows[0]["ratio"], 2)})})
    assert [row["holds"] for row in gate.measure(3)] == [True]
    assert asked == [3, 6]


def test_steps_are_shown_with_their_refresh_intervals_side_by_side():
    figures = {"settings": "fp32", "images_per_second": 90.0, "times_published": 1.1}
    rows = [
        {**figures, "pruner": "dense", "refresh": "default", "ratio_to_dense": 1.0},
        {**figures, "pruner": "nm", "refresh": "default", "ratio_to_dense": 1.04},
        {**figures, "pruner": "nm", "refresh": "every_step", "ratio_to_dense": 1.05},
        {**figures, "pruner": "nm", "refresh": "every_epoch", "ratio_to_dense": 1.01},
    ]
    dense, nm = step.shown(rows)
    assert list(dense) == list(nm)
    assert (dense["default"], dense["every step"]) == (1.0, "")
    assert (nm["default"], nm["every step"], nm["every epoch"]) == (1.04, 1.05, 1.01)
    about = dict.fromkeys(("processor", "cores", "device", "python", "torch", "git", "date"), "x")
    assert rendered("step", {"rows": rows, "machine": about}).startswith("| settings | training |")


@pytest.mark.parametrize("data", refresh.DATA)
@pytest.mark.parametrize("pruner", refresh.PRUNERS)
def test_runs_of_refresh_intervals_can_be_made_and_differ_in_the_interval_alone(data, pruner):
    plans = [Plan.of(composed(*refresh.jobs(data, pruner, every, 1)[0])) for every in ("1it", "10it")]
    assert [plan.config["pruner"].pop("every") for plan in plans] == ["1it", "10it"]
    assert len({str(plan.config["pruner"]["update"].pop("every")) for plan in plans}) == 2
    for plan in plans:
        plan.config.pop("run_dir", None)
    assert plans[0].config == plans[1].config


@pytest.mark.parametrize("repeats", [1, 3])
def test_too_few_seeds_for_a_test_are_refused_before_anything_is_run(repeats, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["refresh", "--repeats", str(repeats)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"configuration error: --repeats={repeats}: must be 4 or more")


def test_every_refresh_of_a_ranking_is_at_a_step_of_the_run_and_at_another_than_the_last():
    steps = ranking.steps(70)
    assert len(steps) == 70
    assert all(0 < step < ranking.STEPS for step in steps)
    assert all(step != after for step, after in pairwise(steps))


def test_every_limit_reads_what_its_benchmark_writes():
    """On the records, so that a renamed column is found without measuring."""
    for name, (_, limits) in gate.LIMITS.items():
        rows = json.loads((ROOT / "results" / "bench" / f"{name}.json").read_text())["rows"]
        assert all(row["holds"] for row in gate.judged(rows, limits)), name


@pytest.mark.slow
def test_a_run_that_is_timed_to_its_first_step_ends_there(tmp_path):
    arguments = [sys.executable, *startup.RUN, *TINY, f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert not (tmp_path / "run" / "summary.json").exists()
    assert "run_dir: " not in done.stdout


def test_shares_count_each_second_once():
    counted = shares.Shares()
    burn = counted.wrap(lambda: [hash(i) for i in range(1_000_000)], "inner")
    started = time.process_time()
    counted.wrap(lambda: (burn(), burn()), "outer")()
    assert counted.seconds.total() <= time.process_time() - started
    assert counted.seconds["outer"] < counted.seconds["inner"]


@pytest.mark.slow
def test_every_part_of_a_run_is_found(tmp_path):
    """A part that has moved would stand in the table with no time at all."""
    place = tmp_path / "shares.json"
    short = [each for each in TINY if each.startswith("trainer.") and "probes" not in each]
    settings = ["data=digits", "pruner=nm_block", "schedule=cubic", *short, *shares.PINNED]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.shares", place, *settings],
        cwd=tmp_path, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    seconds = json.loads(place.read_text())
    assert set(seconds) == {*shares.PARTS.values(), shares.REST}
    assert min(seconds.values()) > 0
