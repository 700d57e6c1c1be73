"""Weights in other programs' files: found whatever is beside them, and no code in them runs."""

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import TINY, composed
from omegaconf import OmegaConf
from torch.nn.utils import prune

from midstate.models import CifarResNet, Torchvision, load_weights
from midstate.runs.run import run

NETWORK = CifarResNet([1], [16], "conv")


def made(num_classes=10, seed=0):
    torch.manual_seed(seed)
    return NETWORK.create(3, num_classes)


def equal(model, state, but=()):
    own = model.state_dict()
    return own.keys() == state.keys() and {name for name in own if not own[name].equal(state[name])} == set(but)


def loaded(content, path, **settings):
    torch.save(content, path)
    model = made(seed=1)
    load_weights(model, path, **settings)
    return model


VALUES = {
    "argparse": argparse.Namespace(lr=0.1, root=Path("data"), parts=["a"]),
    "numpy": [np.float64(0.5), np.float32(2), np.int64(3), np.bool_(True), np.arange(3), np.str_("a")],
    "omegaconf": OmegaConf.create({"lr": 0.1, "name": "a", "more": [1, None, {"same": "${lr}"}]}),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old format"])
@pytest.mark.parametrize("kind", VALUES)
def test_plain_values_beside_the_weights_are_no_obstacle(kind, old, tmp_path):
    state = made().state_dict()
    torch.save(
        {"model": state, "args": VALUES[kind], "epoch": 3}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old
    )
    model = made(seed=1)
    load_weights(model, tmp_path / "a.pt")
    assert equal(model, state)


@pytest.mark.parametrize("prefix", ["net.", "model.", "backbone.", "module.", "_orig_mod.", "a.b.module."])
def test_one_prefix_before_all_names_is_taken_off(prefix, tmp_path):
    state = made().state_dict()
    assert equal(loaded({prefix + name: value for name, value in state.items()}, tmp_path / "a.pt"), state)


def test_a_prefix_that_the_model_has_itself_stays(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    for name in ("0.weight", "net.0.weight"):
        torch.save({name: torch.ones(2, 3), name.replace("weight", "bias"): torch.ones(2)}, tmp_path / "a.pt")
        load_weights(model, tmp_path / "a.pt")
        assert model[0].weight.eq(1).all()


@pytest.mark.parametrize(
    "place", ["state_dict", "model", "net", "model_state_dict", "ema", "network", "anything", "checkpoint.state_dict"]
)
def test_the_dict_of_tensors_is_found_whatever_it_is_called(place, tmp_path):
    state = made().state_dict()
    content = state
    for name in reversed(place.split(".")):
        content = {name: content, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}, "rng": torch.zeros(3)}
    assert equal(loaded(content, tmp_path / "a.pt"), state)


def test_of_several_sets_the_trained_one_counts_and_unknown_names_are_told(tmp_path):
    state, other = made().state_dict(), made(seed=3).state_dict()
    assert equal(loaded({"ema": other, "model": state}, tmp_path / "a.pt"), state)
    with pytest.raises(ValueError, match="it holds several sets of tensors, student, teacher, and none is called"):
        loaded({"student": state, "teacher": other}, tmp_path / "a.pt")


def test_an_old_file_without_batchnorms_counters_loads(tmp_path):
    state = {name: value for name, value in made().state_dict().items() if "num_batches" not in name}
    assert equal(loaded(state, tmp_path / "a.pt"), made().state_dict())


@pytest.mark.parametrize("pruner", ["nm", "maxq", "lbc", "network_slimming"])
def test_own_files_of_the_middle_of_a_run_mean_the_masked_weights(pruner, tmp_path):
    more = ("trainer.epochs=1", "schedule.stop=3it", f"pruner={pruner}", f"run_dir={tmp_path}", "trainer.probes=false")
    run(composed(*TINY, *more, *(("schedule.start=2it",) if pruner == "network_slimming" else ())))
    final = torch.load(tmp_path / "checkpoints" / "final.pt", weights_only=True)["model"]
    step = sorted((tmp_path / "checkpoints").glob("step-*.pt"))[-1]
    assert any("parametrizations" in name for name in torch.load(step, weights_only=True)["model"])
    model = CifarResNet([1, 1, 1], [16, 32, 64], "conv").create(1, 10)
    load_weights(model, step)
    assert equal(model, final)
    assert any(value.eq(0).float().mean() > 0.3 for value in final.values())


def test_masks_of_torchs_own_pruning_are_folded(tmp_path):
    model = made()
    prune.l1_unstructured(model.stages[0][0].conv2, "weight", 0.5)
    expected = model.stages[0][0].conv2.weight.detach().clone()
    other = loaded(model.state_dict(), tmp_path / "a.pt")
    assert other.stages[0][0].conv2.weight.equal(expected)


def test_other_parametrizations_are_not_taken_for_masks(tmp_path):
    model = made()
    torch.nn.utils.parametrizations.spectral_norm(model.classifier)
    with pytest.raises(ValueError, match=r"only the file has 3: classifier.parametrizations.weight.original 10x16"):
        loaded(model.state_dict(), tmp_path / "a.pt")


def test_of_another_number_of_classes_the_classifier_is_fresh_and_said(tmp_path, caplog):
    state = made(num_classes=100).state_dict()
    fresh = made(seed=1).state_dict()
    model = loaded({"state_dict": state}, tmp_path / "a.pt")
    assert model.classifier.weight.equal(fresh["classifier.weight"])
    assert all(model.state_dict()[name].equal(state[name]) for name in state if "classifier" not in name)
    assert "is of 100 classes, and the data have 10: classifier.weight, classifier.bias begin anew" in caplog.text
    with pytest.raises(ValueError, match=r"of another shape 2: classifier.weight 100x16 in the file, 10x16 in the mod"):
        loaded(state, tmp_path / "a.pt", fresh_classifier=False)
    headless = {name: value for name, value in state.items() if "classifier" not in name}
    assert equal(loaded(headless, tmp_path / "a.pt"), headless | {n: fresh[n] for n in fresh if "classifier" in n})
    assert "has no classifier, and the data have 10" in caplog.text


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_the_file_of_a_network_with_auxiliary_heads_loads(tmp_path):
    file = torchvision.models.googlenet(init_weights=False).state_dict()
    torch.save(file, tmp_path / "a.pt")
    model = Torchvision("googlenet").create(3, 7)
    load_weights(model, tmp_path / "a.pt")
    assert model.conv1.conv.weight.equal(file["conv1.conv.weight"])


def test_what_does_not_fit_is_shown_beside_what_is_wanted(tmp_path):
    state = made().state_dict()
    state["extra.weight"] = torch.zeros(2, 3)
    state["stages.0.0.conv1.weight"] = torch.zeros(8, 16, 3, 3)
    del state["conv1.weight"]
    with pytest.raises(ValueError, match="does not fit this model") as error:
        loaded(state, tmp_path / "a.pt")
    lines = str(error.value).splitlines()
    assert len(lines) <= 5
    assert lines[1].endswith("only the model has 1: conv1.weight 16x3x3x3")
    assert lines[2].endswith("only the file has 1: extra.weight 2x3")
    assert lines[3].endswith("shape 1: stages.0.0.conv1.weight 8x16x3x3 in the file, 16x16x3x3 in the model")


class Malicious:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old format"])
def test_code_in_a_file_does_not_run_and_is_named(old, tmp_path):
    hidden = argparse.Namespace(harmless=OmegaConf.create({"a": 1}), bad=Malicious(tmp_path / "ran"))
    torch.save(
        {"model": made().state_dict(), "args": hidden}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old
    )
    with pytest.raises(ValueError, match=r"holds (posix|nt)\.system, which is not made here") as error:
        load_weights(made(), tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        loaded(Malicious(tmp_path / "ran"), tmp_path / "b.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "b.pt", weights_only=False)  # it would have
    assert (tmp_path / "ran").exists()


def test_what_is_allowed_is_not_allowed_for_good(tmp_path):
    loaded(made().state_dict(), tmp_path / "a.pt")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
