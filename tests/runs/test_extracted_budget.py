"""Filters at equal size, in real runs: budgets of the extracted network, against what finished networks have."""

import json
import logging

import pytest
import torch
from conftest import TINY, composed, tiny

from midstate.common.errors import ConfigError
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session

SIXTY = ("data=clutter", "pruner=global_filter", "pruner.sparsity=0.6", "pruner/path=direct", "trainer.epochs=1")


def by(name: str, budget: str) -> list[str]:
    ranked = ["pruner.refresh=once"] if name in ("global", "lamp") else []
    return [f"pruner/allocation={name}", f"pruner.budget={budget}", *ranked]


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    """Summaries of uniform runs, by network."""
    place = tmp_path_factory.mktemp("uniform")
    return {
        model: tiny(place / model, *SIXTY, f"model={model}", "pruner/allocation=uniform")
        for model in ("resnet8", "resnet20")
    }


@pytest.mark.parametrize("budget", ["params", "macs"])
@pytest.mark.parametrize(
    ("model", "name"), [("resnet8", "erk"), ("resnet8", "lamp"), ("resnet8", "global"), ("resnet20", "global")]
)
def test_a_finished_network_is_as_large_as_the_uniform_one(tmp_path, uniform, model, name, budget):
    mine = tiny(tmp_path / "run", *SIXTY, f"model={model}", *by(name, f"extracted_{budget}"))
    shares = {kind: mine[f"{kind}_sparse"] / uniform[model][f"{kind}_sparse"] for kind in ("params", "macs")}
    assert 0.99 <= shares[budget] <= 1
    for kind, share in shares.items():  # what was counted when levels were chosen is what finished networks have
        assert mine["allocation"][f"extracted_{kind}_slack"] == pytest.approx(1 - share, abs=1e-12)
    assert mine["pattern_verified"]
    levels = json.loads((tmp_path / "run" / "scheme.json").read_text())["levels"]
    assert all(1 <= levels[layer["name"]] <= layer["shape"][0] for layer in mine["layers"])
    assert len(set(levels.values())) >= 3


def test_a_nominal_budget_misses_it_and_reports_as_before(tmp_path, uniform):
    summary = tiny(tmp_path / "run", *SIXTY, "model=resnet8", *by("erk", "macs"))
    assert set(summary["allocation"]) == {"params_slack", "macs_slack", "moved"}
    assert abs(summary["macs_sparse"] / uniform["resnet8"]["macs_sparse"] - 1) > 0.05


@pytest.mark.slow
def test_a_network_whose_filters_changed_afterwards_is_told(tmp_path, caplog):
    gradual = ("pruner/path=density", "pruner.regrow=free", "pruner.forced_swaps=0.5", "trainer.epochs=4")
    with caplog.at_level(logging.WARNING):
        summary = tiny(tmp_path / "run", *SIXTY, "model=resnet20", *by("global", "extracted_params"), *gradual)
    slack = summary["allocation"]["extracted_params_slack"]
    assert not 0 <= slack <= 0.01  # a residual stream keeps other channels
    told = [record.message for record in caplog.records if "pruner.budget=extracted_params" in record.message]
    assert f"has {100 * (1 - slack):.2f} %" in told[0]


def test_levels_are_found_when_pruning_begins_and_stand_in_the_checkpoint():
    settings = (*TINY, *SIXTY, "model=resnet8", *by("erk", "extracted_macs"), "schedule.start=0.5")
    session, again = (build_session(Plan.of(composed(*settings))) for _ in range(2))
    assert session.pruner.levels is None
    before = torch.get_rng_state(), {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    session.pruner.masks_at(1.0, 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in session.model.state_dict().items())
    assert all(parameter.grad is None for parameter in session.model.parameters())
    again.pruner.load_state_dict(session.pruner.state_dict())
    assert again.pruner.levels == session.pruner.levels is not None
    counted = {"params_sparse": 1000, "macs_sparse": 1000}
    assert again.pruner.allocation_report(counted) == session.pruner.allocation_report(counted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("pruner=magnitude", "pruner/allocation=erk", "pruner.budget=extracted_macs"),
            "budget='extracted_macs': counts what is left when dead channels are cut out, and pattern=weight "
            "prunes no whole filters; use pruner/pattern=filter, or pruner.budget=params or macs",
        ),
        (
            ("pruner=nm", "pruner/allocation=erk", "pruner.budget=extracted_params"),
            "pattern=nm prunes no whole filters",
        ),
        (
            ("pruner=global_filter", "pruner.budget=extracted_macs"),
            "budget='extracted_macs': levels are found by a search over many networks, which is too slow at "
            "every refresh; use pruner.refresh=once",
        ),
        (
            ("pruner=nm_mixed", "pruner.budget=extracted_macs"),
            "pruner.budget='extracted_macs': must be one of params, macs, both",
        ),
        (
            ("pruner=filter", "pruner/allocation=haq", "pruner.budget=extracted_macs"),
            "pruner.budget='extracted_macs': must be one of params, macs",
        ),
    ],
)
def test_what_has_no_such_budget_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError) as refused:
        Plan.of(composed(*settings))
    assert message in str(refused.value)


def test_the_budget_is_part_of_an_identity():
    hashes = [Plan.of(composed("pruner=filter", *by("erk", budget))).hash for budget in ("params", "extracted_params")]
    assert hashes[0] == Plan.of(composed("pruner=filter", "pruner/allocation=erk")).hash != hashes[1]
