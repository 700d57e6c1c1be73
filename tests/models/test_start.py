"""Weights to begin with: found, loaded, and part of a run's identity by what they are."""

import json
import shutil

import pytest
import torch
from conftest import TINY, composed
from omegaconf import OmegaConf
from safetensors.torch import save_file

from midstate.common.errors import ConfigError
from midstate.models import CifarResNet, load_weights
from midstate.runs.find import find_checkpoint
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.runs.run import run

SHORT = (*TINY, "trainer.epochs=1")


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """The dense run of seed 0, as it lies under outputs/."""
    directory = tmp_path_factory.mktemp("outputs") / "dense"
    run(composed(*SHORT, "pruner=dense", f"run_dir={directory / 'abc' / 'seed0'}"))
    return directory


def test_a_run_begins_with_the_weights_of_the_run_of_its_own_seed(parent, tmp_path):
    session = build_session(
        Plan.of(composed(*SHORT, "pruner=dense", f"model.checkpoint={parent}", f"run_dir={tmp_path}"))
    )
    stored = torch.load(parent / "abc" / "seed0" / "checkpoints" / "final.pt", weights_only=True)["model"]
    assert all(value.equal(stored[name]) for name, value in session.model.state_dict().items())


def test_identity_follows_the_run_that_made_the_weights_not_the_place(parent, tmp_path):
    file = parent / "abc" / "seed0" / "checkpoints" / "final.pt"
    by_directory, by_file, other_seed, none = (
        Plan.of(composed(*SHORT, "pruner=dense", *more)).hash
        for more in (
            (f"model.checkpoint={parent}",),
            (f"model.checkpoint={file}",),
            (f"model.checkpoint={file}", "seed=1"),
            (),
        )
    )
    assert by_directory == by_file
    assert len({by_file, other_seed, none}) == 3
    alone = tmp_path / "weights.pt"
    shutil.copy(file, alone)
    assert Plan.of(composed(*SHORT, f"model.checkpoint={alone}")).config["model"]["checkpoint_of"] != by_file
    assert Plan.of(composed(*SHORT)).hash == Plan.of(composed(*SHORT, "model.checkpoint=null")).hash


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("nowhere", "model: checkpoint='nowhere': no such file or directory"),
        (".", "holds no finished runs of seed 0 with this network and data, one is needed; run that experiment first"),
    ],
)
def test_what_is_not_there_is_refused(checkpoint, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        Plan.of(composed(*SHORT, f"model.checkpoint={checkpoint}"))


def test_two_configurations_in_one_directory_are_told_apart(parent, tmp_path):
    for name in ("abc", "def"):
        shutil.copytree(parent / "abc", tmp_path / name)
    config = OmegaConf.to_container(OmegaConf.load(tmp_path / "abc" / "seed0" / "config.yaml"))
    with pytest.raises(ValueError, match=r"holds 2 finished runs of seed 0 .*, one is needed; name one of .*abc.*def"):
        find_checkpoint(str(tmp_path), config)
    other = OmegaConf.load(tmp_path / "def" / "seed0" / "config.yaml")
    other.model.widths = [16, 32, 48]
    OmegaConf.save(other, tmp_path / "def" / "seed0" / "config.yaml")
    assert find_checkpoint(str(tmp_path), config).parts[-4] == "abc"


def test_weights_that_do_not_fit_are_refused(parent, tmp_path):
    file = parent / "abc" / "seed0" / "checkpoints" / "final.pt"
    with pytest.raises(ValueError, match="does not fit this model"):
        load_weights(CifarResNet([1, 1], [16, 32], "conv").create(1, 10), file)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(CifarResNet([1, 1, 1], [16, 32, 64], "conv").create(1, 10), broken)


def test_checkpoints_of_other_programs_load(tmp_path):
    """Of DataParallel, torch.compile, both; of scripts that save more; of averaged weights; and safetensors."""
    torch.manual_seed(0)
    state = CifarResNet([1], [16], "conv").create(3, 10).state_dict()
    named = {prefix: {prefix + name: value for name, value in state.items()} for prefix in ("module.", "_orig_mod.")}
    both = {f"module._orig_mod.{name}": value for name, value in state.items()}
    contents = {
        "plain": state,
        "parallel": {"state_dict": named["module."], "epoch": 3, "arch": "resnet8"},
        "compiled": {"model": named["_orig_mod."], "optimizer": {"state": {}}},
        "both": both,
        "averaged": {"model_ema": {"n_averaged": torch.tensor(5), **named["module."]}},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pt")
    save_file(state, tmp_path / "safe.safetensors")
    for path in tmp_path.iterdir():
        model = CifarResNet([1], [16], "conv").create(3, 10)
        load_weights(model, path)
        assert all(value.equal(state[name]) for name, value in model.state_dict().items()), path.name


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds a list; tensors by name"), (torch.zeros(3), "holds a Tensor;"), ({1: 2}, "holds 1 as a name;")],
)
def test_what_is_no_state_dict_is_told_what_is_needed(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        load_weights(CifarResNet([1], [16], "conv").create(3, 10), tmp_path / "a.pt")


def test_a_file_that_does_not_fit_leaves_no_quantisers_on_the_model(tmp_path):
    state = CifarResNet([1], [16], "conv").create(3, 10).state_dict()
    finished = {f"conv1.input_quantizer.{name}": torch.tensor(1.0) for name in ("step", "low", "high")}
    torch.save({**state, **finished}, tmp_path / "a.pt")
    model = CifarResNet([1], [32], "conv").create(3, 10)
    names = [*model.state_dict()]
    with pytest.raises(ValueError, match="does not fit this model"):
        load_weights(model, tmp_path / "a.pt")
    assert [*model.state_dict()] == names


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_refused_naming_the_tensor(value, tmp_path):
    state = CifarResNet([1], [16], "conv").create(1, 10).state_dict()
    state["stages.0.0.conv2.weight"][3, 2, 1, 0] = value
    torch.save(state, tmp_path / "a.pt")
    small = ("model.blocks=[1]", "model.widths=[16]", f"model.checkpoint={tmp_path / 'a.pt'}")
    with pytest.raises(ConfigError, match=r"a.pt': stages.0.0.conv2.weight is not finite"):
        build_session(Plan.of(composed(*SHORT, "pruner=dense", *small)))


@pytest.mark.parametrize("content", [{}, [1, 2], 3, {"model": {"a": 1}}, {1: 2}, {"state_dict": {}}])
def test_what_is_no_state_dict_is_refused_in_one_short_line(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="does not fit this model") as error:
        load_weights(CifarResNet([9, 9], [16, 32], "conv").create(3, 10), tmp_path / "a.pt")
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


class Malicious:
    def __reduce__(self):
        return print, ("ran",)


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    path = tmp_path / "bad.pt"
    torch.save({"model": Malicious()}, path)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(CifarResNet([1], [16], "conv").create(1, 10), path)
    assert "ran" not in capsys.readouterr().out


def test_a_finetuned_run_resumes_and_finishes(parent, tmp_path):
    run(composed(*SHORT, "pruner=magnitude", "schedule=one_shot", f"model.checkpoint={parent}", f"run_dir={tmp_path}"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["pattern_verified"]
    run(composed(*SHORT, "pruner=magnitude", "schedule=one_shot", f"model.checkpoint={parent}", f"run_dir={tmp_path}"))
