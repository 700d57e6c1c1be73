"""Runs whose channels are put in another order before the first mask."""

import json
import logging

import pytest
import torch
from conftest import composed, tiny
from test_quantized_runs import stop_after

from export import main as export
from midstate.common.errors import ConfigError
from midstate.models import CifarResNet
from midstate.runs.identity import config_hash
from midstate.runs.plan import Plan
from midstate.verify.__main__ import main as verify

SHORT = ("model.widths=[16,16,32]", "trainer.epochs=2", "trainer.max_steps_per_epoch=4")
ASP = ("pruner=asp", "pruner.multiples=null", "trainer.mode=train", "schedule.start=0.5", "trainer.ema=0.9")


@pytest.mark.slow
def test_a_trained_network_is_cut_in_a_better_order_and_verified(tmp_path, caplog):
    caplog.set_level(logging.INFO, "midstate")
    without = tiny(tmp_path / "without", *SHORT, *ASP)
    summary = tiny(tmp_path / "run", *SHORT, *ASP, "pruner.permute=true", "trainer.probes=true")
    assert summary["pattern_verified"]
    permuted = summary["permuted"]
    assert permuted["after"] > permuted["before"]
    assert permuted["complete"]
    assert "channels reordered: 2:4 keeps" in caplog.text
    assert "permuted" not in without
    assert summary["config_hash"] != without["config_hash"]
    first = (tmp_path / "without" / "metrics.csv").read_text().splitlines()[1].split(",")
    again = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1].split(",")
    assert first[8] == again[8]  # the dense half's losses


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bits_and_orders_once(tmp_path, caplog):
    words = (*SHORT, *ASP, "pruner.permute=true")
    whole = tiny(tmp_path / "whole", *words)
    with pytest.raises(SystemExit) as stopped:
        stop_after(tmp_path / "parts", 6, *words)
    assert stopped.value.code == 75
    caplog.set_level(logging.INFO, "midstate")
    parts = tiny(tmp_path / "parts", *words)
    assert "channels reordered" not in caplog.text
    assert parts["loss"] == whole["loss"]
    assert parts["permuted"]["after"] == whole["permuted"]["after"]


def test_the_finished_weights_load_into_the_network_as_it_is_and_have_the_pattern(tmp_path, capsys):
    place = tmp_path / "run"
    tiny(place, *SHORT, *ASP, "pruner.permute=true")
    assert export([str(place), "--format", "dense"]) == 0
    file = capsys.readouterr().out.splitlines()[-1].removeprefix("file: ")
    state = torch.load(file, weights_only=True)
    model = CifarResNet([1, 1, 1], [16, 16, 32], "conv").create(1, 10)
    model.load_state_dict(state.get("state_dict", state), strict=True)
    assert verify([file, "--pattern", "2:4"]) == 0
    assert "along input" in capsys.readouterr().out


def test_random_weights_are_warned_of(tmp_path, caplog):
    tiny(tmp_path / "run", *SHORT, "pruner=nm", "pruner.n=2", "pruner.m=4", "pruner.permute=true")
    assert "pruner.permute=true: channels are ordered by random weights" in caplog.text


def test_a_run_that_does_not_permute_is_the_run_that_it_was():
    usual = composed(*SHORT, "pruner=nm")
    plan = Plan.of(usual)
    bare = json.loads(json.dumps(plan.config))
    for node in (bare["pruner"], bare["pruner"]["pattern"]):
        del node["permute"], node["permute_seconds"]
    assert config_hash(bare) == plan.hash


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("pruner=lbc", "pruner.m=4"), "permute=true: estimator=candidates learns"),
        (("pruner=nm", "pruner/criterion=random"), "permute=true: looks for an order that keeps more magnitude"),
        (
            ("pruner=nm_mixed", "pruner.per=filter", "pruner.score=weight_error"),
            "permute=true: gives filters other places",
        ),
        (("pruner=nm", "pruner.permute_seconds=-1"), "permute_seconds=-1"),
        (("pruner=nm", "pruner.permute=maybe"), "permute='maybe'"),
        (("pruner=nm", "quantizer=uniform"), "quantizer: pruner.permute=true gives filters other places"),
        (("pruner=filter",), "permute"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(overrides, message):
    with pytest.raises(Exception, match=message) as refused:
        Plan.of(composed(*SHORT, "pruner.permute=true", *overrides))
    assert isinstance(refused.value, ConfigError) or "pruner=filter" in overrides
