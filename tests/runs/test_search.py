"""Runs whose allocation tries whole schemes: their table, their scheme, a stop and going on, and what is refused."""

import csv
import json
import signal

import pytest
import torch
from conftest import TINY, assert_checkpoints_whole, begin, composed, wait_for

from midstate.common.errors import ConfigError, RunFailed
from midstate.engine.loop import EPISODES_SAVED, train
from midstate.runs import checkpoint
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.runs.run import run
from midstate.runs.tracking import SEARCH

NARROW = ("model.widths=[8,8,16]", "trainer.probes=false", "trainer.threads=1")
SMALL = (*TINY, *NARROW, "pruner.trial_steps=2", "pruner.trial_images=200", "pruner.held_out=100")
HAQ = ("pruner=nm_mixed", "pruner/allocation=haq", "pruner.warmup=2", "pruner.hidden=[16,16]")
RANDOM = ("pruner=nm_mixed", "pruner/allocation=random_search")


def table(directory):
    with (directory / "search.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("overrides", [HAQ, RANDOM], ids=["haq", "random"])
def test_a_run_ends_at_the_best_of_what_it_has_tried(tmp_path, overrides):
    run(composed(*SMALL, *overrides, "pruner.episodes=3", f"run_dir={tmp_path}"))
    rows = table(tmp_path)
    assert list(rows[0]) == list(SEARCH)
    assert [row["episode"] for row in rows] == ["1", "2", "3"]
    best = max(rows, key=lambda row: float(row["reward"]))
    scheme = json.loads((tmp_path / "scheme.json").read_text())
    assert list(scheme["levels"].values()) == json.loads(best["levels"])
    for row in rows:
        assert set(json.loads(row["levels"])) <= {1, 2, 4, 8}
        assert int(row["cost"]) <= int(row["limit"])
    assert [float(row["best"]) for row in rows] == [
        max(float(each["reward"]) for each in rows[: i + 1]) for i in range(3)
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["pattern_verified"] is True
    assert summary["allocation"]["params_slack"] >= 0


def test_filters_are_allocated_by_the_same_search():
    pruner = ("pruner=filter", "pruner/allocation=haq", "pruner/path=direct", "schedule.start=0.5", "pruner.episodes=2")
    session = build_session(Plan.of(composed(*SMALL, *pruner)))
    assert train(session, lambda: None, lambda row: None, lambda: False)
    assert len(session.pruner.search.rows) == 2
    session.pruner.finalise()
    assert session.pruner.verify()


def test_a_stop_between_episodes_loses_none_of_them_and_every_tenth_is_saved():
    arguments = (*SMALL, *HAQ, f"pruner.episodes={EPISODES_SAVED + 2}", "pruner.trial_steps=0")
    whole, stopped, resumed = (build_session(Plan.of(composed(*arguments))) for _ in range(3))
    saved, seen = [], []

    def save():
        state = {"step": stopped.step, **stopped.state_dict()}
        saved.append((len(state["pruner"]["search"]["rows"]), state))

    def stop():
        return stopped.pruner.search is not None and len(stopped.pruner.search.rows) == EPISODES_SAVED + 1

    nothing = lambda *_: None  # noqa: E731
    done = train(stopped, save, nothing, stop, lambda: seen.append(len(stopped.pruner.search.rows)))
    assert done is False
    assert [number for number, _ in saved][-2:] == [EPISODES_SAVED, EPISODES_SAVED + 1]
    assert seen == list(range(EPISODES_SAVED + 2))
    resumed.load_state_dict(saved[-1][1])
    assert train(resumed, nothing, nothing, lambda: False)
    assert train(whole, nothing, nothing, lambda: False)
    assert resumed.pruner.search.rows == whole.pruner.search.rows
    assert resumed.pruner.levels == whole.pruner.levels
    assert resumed.losses == whole.losses
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


@pytest.mark.slow
def test_a_signal_stops_a_search_and_the_same_command_goes_on(tmp_path):
    arguments = (*SMALL, *HAQ, "pruner.episodes=8", "pruner.trial_steps=20")
    process = begin(tmp_path, *arguments, "run_dir=broken")
    wait_for(process, lambda: (tmp_path / "broken" / "search.csv").is_file() and len(table(tmp_path / "broken")) > 1)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "the same command goes on from here" in output
    tried = len(table(tmp_path / "broken"))
    assert 1 < tried < 8
    assert_checkpoints_whole(tmp_path / "broken")
    run(composed(*arguments, f"run_dir={tmp_path / 'broken'}"))
    run(composed(*arguments, f"run_dir={tmp_path / 'whole'}"))
    assert table(tmp_path / "broken") == table(tmp_path / "whole")
    for name in ("scheme.json", "losses.csv"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()
    last = [checkpoint.checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("broken", "whole")]
    broken, whole = (torch.load(path, weights_only=True)["model"] for path in last)
    assert all(torch.equal(broken[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*HAQ, "schedule.start=0"), r"pruner/allocation=haq: tries schemes on trained weights, and there are none"),
        ((*RANDOM, "pruner.held_out=5000"), r"held_out=5000: are more than the 1079 training images"),
        ((*HAQ, "pruner.levels=[4,8]"), r"pruner: levels=\[4, 8\]: all exceed the budget, uniform 2:8"),
        (
            ("pruner=filter", "pruner/allocation=haq", "schedule.start=0.5", "pruner.levels=[15,16]"),
            "the lowest levels cost .* params, and the budget is",
        ),
        ((*HAQ, "pruner.budget=latency"), "budget='latency': is a quantizer's, and pattern=nm prunes; use params"),
        ((*HAQ, "pruner.budget=flops"), r"pruner\.budget='flops': must be one of"),
        ((*HAQ, "pruner.repair=deep"), r"pruner\.repair='deep': must be one of deepest, shallowest, cost"),
        ((*HAQ, "pruner.episodes=0"), r"pruner\.episodes=0: must be a whole number, 1 or more"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        run(composed(*SMALL, *overrides, f"run_dir={tmp_path / 'run'}"))
    assert not list(tmp_path.iterdir())


def test_a_finetune_that_diverges_ends_the_run(tmp_path):
    with pytest.raises(
        RunFailed, match=r"diverged: NaN for a reward in episode 1: the finetune of \[.*\] has diverged"
    ):
        run(composed(*SMALL, *HAQ, "pruner.trial_lr=1e30", f"run_dir={tmp_path}"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed"


def test_other_methods_see_the_sample_that_they_saw():
    plan = Plan.of(composed(*TINY, *NARROW, "pruner=nm_mixed"))
    sample = build_session(plan).pruner._network.sample
    assert (len(sample.labels), sample.tuning, sample.held_out) == (1000, None, None)
