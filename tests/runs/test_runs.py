import json
import os
import re

import pytest
from conftest import composed
from omegaconf import OmegaConf
from torch.nn.functional import cross_entropy

from midstate.runs.files import read_summary, write_config, write_summary
from midstate.runs.find import find_file
from midstate.runs.identity import NEUTRAL, config_hash
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.runs.report import _other_zeros

IRRELEVANT = (
    "seed=5",
    "logger=none",
    "logger.project=other",
    "launcher=pool",
    "machine.device_index=3",
    "rerun=true",
    "run_dir=elsewhere",
    "trainer.checkpoint_every=3it",
    "trainer.mode=train",
    "trainer.threads=1",  # what auto resolves to with embedded data
)


def hash_of(*overrides):
    return Plan.of(composed(*overrides)).hash


def test_identity_is_what_decides_the_numbers():
    reference = hash_of()
    assert re.fullmatch("[0-9a-f]{12}", reference)
    for irrelevant in IRRELEVANT:
        assert hash_of(irrelevant) == reference, irrelevant
    for relevant in ("pruner.n=2", "schedule=linear", "trainer.threads=2", "pruner.every=2it", "data.noise=0.2"):
        assert hash_of(relevant) != reference, relevant


def test_fetching_a_set_changes_no_identity():
    of_old_runs = "fc672db87006"  # the default was counted before it was known to change nothing
    cifar10 = ("data=cifar10", "trainer.threads=1")
    assert hash_of(*cifar10) == hash_of(*cifar10, "data.download=false") == of_old_runs
    assert hash_of("data=timm") == hash_of("data=timm", "data.download=true")


@pytest.mark.parametrize("where", [("cifar10", "data.download=false"), ("fashion_mnist", "data.root=elsewhere")])
def test_a_run_of_a_set_that_was_fetched_is_found(tmp_path, where):
    name, setting = where
    config = composed(f"data={name}", setting)
    (tmp_path / "seed0").mkdir()
    write_config(tmp_path / "seed0", OmegaConf.to_container(composed(f"data={name}"), resolve=True))
    write_summary(tmp_path / "seed0", {"status": "finished"})
    found = find_file("model.checkpoint", str(tmp_path), "summary.json", OmegaConf.to_container(config, resolve=True))
    assert found == tmp_path / "seed0/summary.json"


def test_a_field_added_later_at_its_neutral_value_keeps_old_identities():
    old = OmegaConf.to_container(composed(), resolve=True)
    new = {**old, "trainer": {**old["trainer"], "invented": "as before"}}
    assert config_hash(new) != config_hash(old)
    NEUTRAL["trainer.invented"] = "as before"
    try:
        assert config_hash(new) == config_hash(old)
        new["trainer"]["invented"] = "otherwise"
        assert config_hash(new) != config_hash(old)
    finally:
        del NEUTRAL["trainer.invented"]


def test_directories_follow_experiment_hash_and_seed():
    plan = Plan.of(composed("seed=3"))
    assert plan.directory.as_posix() == f"outputs/nm_block/{plan.hash}/seed3"
    plan = Plan.of(composed("experiment=c8_n_1of16"))
    assert plan.directory.as_posix() == f"outputs/c8_n_1of16/{plan.hash}/seed0"


def test_secrets_are_replaced_by_the_names_of_their_variables(tmp_path):
    os.environ["SOME_API_KEY"] = "very-secret-value"
    try:
        config = OmegaConf.to_container(composed("logger.tags=[a,'${oc.env:SOME_API_KEY}']"), resolve=True)
        write_config(tmp_path, config)
        text = (tmp_path / "config.yaml").read_text()
    finally:
        del os.environ["SOME_API_KEY"]
    assert "very-secret-value" not in text
    assert "<SOME_API_KEY>" in text


def test_summaries_are_read_back(tmp_path):
    assert read_summary(tmp_path) is None
    write_summary(tmp_path, {"status": "finished", "top1": 1.5})
    assert read_summary(tmp_path) == json.loads((tmp_path / "summary.json").read_text())


@pytest.mark.parametrize("override", ["schedule=linear", "schedule.stop=0.5"])
def test_settings_without_effect_warn(override, caplog):
    config = composed("pruner=nm", override)
    with caplog.at_level("WARNING"):
        Plan.of(config)
    assert f"{override} has no effect" in caplog.text


def test_a_schedule_that_ends_with_the_run_warns(caplog):
    with caplog.at_level("WARNING"):
        build_session(Plan.of(composed("schedule.stop=1.0", "trainer.max_steps_per_epoch=2")))
    assert "no step is trained at the target" in caplog.text


@pytest.mark.parametrize(("override", "warned"), [("schedule.start=0", 1), ("schedule.start=1ep", 0)])
def test_filters_that_would_never_come_back_are_spoken_of(override, warned, caplog):
    session = build_session(Plan.of(composed("pruner=sfp", override, "trainer.max_steps_per_epoch=2")))
    assert caplog.text.count("schedule.start=1ep prunes after an epoch of training") == warned
    session.pruner.tick(0)
    batch = session.data.train.first(8)
    cross_entropy(session.model.train()(batch.images), batch.labels).backward()
    first = session.pruner.layers[0].module
    gradients = first.parametrizations.weight.original.grad.flatten(1).any(1)
    assert int((~gradients).sum()) == (4 if warned else 0)  # as many filters as go, of 16


def test_zeros_beside_those_of_masks_are_told_apart():
    layers = [{"name": "conv", "shape": [10, 10], "kept": 0.7}]
    summary = {"sparsity": 0.35, "params_prunable": 100, "layers": layers}
    ((name, said),) = _other_zeros(summary)
    assert name == "kept by masks"
    assert said.startswith("70.00 % of the prunable weights, of which 5.00 points are zero all the same")
    assert not _other_zeros(summary | {"sparsity": 0.3})
