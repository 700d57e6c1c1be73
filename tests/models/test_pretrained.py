"""Weights of the libraries: taken from their caches, which the tests fill, and never from the network."""

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from conftest import composed

from midstate.common.errors import ConfigError
from midstate.models import Timm, Torchvision
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """The cache of torchvision, empty, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", NOWHERE)
    files = tmp_path / "hub" / "checkpoints"
    files.mkdir(parents=True)
    return files


@pytest.fixture
def hub_home(tmp_path, monkeypatch):
    """The cache of timm's hub, empty, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def stored(files, name, weights="DEFAULT"):
    """Weights as torchvision leaves them in its cache, where the network has a marked classifier."""
    torch.manual_seed(7)
    made = torchvision.models.get_model(name)
    weights = torchvision.models.get_model_weights(name)[weights]
    torch.save(made.state_dict(), files / weights.url.rsplit("/", 1)[1])
    return made.state_dict()


def equal(model, state, but=()):
    """Whether the weights are those, but for the layers named, which must differ."""
    own = model.state_dict()
    assert own.keys() == state.keys()
    fresh = {key for key in own if own[key].shape != state[key].shape or not own[key].equal(state[key])}
    return fresh == set(but)


def test_torchvisions_weights_with_their_own_classes_and_with_others(torch_home):
    state = stored(torch_home, "squeezenet1_1")  # its classifier is a convolution
    bridge = Torchvision("squeezenet1_1", pretrained=True)
    assert equal(bridge.create(3, 1000), state)
    other = bridge.create(3, 7).eval()
    assert equal(other, state, but={"classifier.1.weight", "classifier.1.bias"})
    assert other(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    with pytest.raises(ValueError, match="reads images of 3 channels, and these have 1"):
        bridge.create(1, 7)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvisions_weights_without_their_auxiliary_heads(torch_home, name):
    state = {key: value for key, value in stored(torch_home, name).items() if not key.startswith(("aux", "Aux"))}
    assert equal(Torchvision(name, pretrained=True).create(3, 7), state, but={"fc.weight", "fc.bias"})


def test_torchvisions_weights_by_name(torch_home):
    old = stored(torch_home, "mobilenet_v2", "IMAGENET1K_V1")
    with pytest.raises(ValueError, match=r"pretrained=True: .*cannot be downloaded .*use model.checkpoint=FILE"):
        Torchvision("mobilenet_v2", pretrained=True).create(3, 1000)
    model = Torchvision("mobilenet_v2", pretrained="IMAGENET1K_V1").create(3, 10)
    assert equal(model, old, but={"classifier.1.weight", "classifier.1.bias"})
    with pytest.raises(ValueError, match="must be true, false or one of IMAGENET1K_V1, IMAGENET1K_V2"):
        Torchvision("mobilenet_v2", pretrained="IMAGENET1K_V3")


def test_timms_weights_by_tag(hub_home):
    made = timm.create_model("resnet10t", num_classes=1000)
    snapshot = hub_home / "models--timm--resnet10t.c3_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    safetensors.torch.save_file(made.state_dict(), snapshot / "model.safetensors")
    model = Timm("resnet10t.c3_in1k", pretrained=True).create(3, 5)
    assert equal(model, made.state_dict(), but={"fc.weight", "fc.bias"})
    with pytest.raises(ValueError, match=r"the weights of resnet14t.c3_in1k are not in the library's cache"):
        Timm("resnet14t.c3_in1k", pretrained=True).create(3, 5)


def test_without_a_network_a_run_is_refused_in_one_line(torch_home):
    settings = ("model=resnet50", "model.pretrained=true", "data=fake", "pruner=nm", "pruner.m=4")
    with pytest.raises(ConfigError, match=r"model: pretrained=True: .*use model.checkpoint=FILE$") as error:
        build_session(Plan.of(composed(*settings)))
    assert "\n" not in str(error.value)


def test_a_tag_names_weights_and_is_checked():
    assert Timm("resnet10t.c3_in1k").create(3, 10).num_classes == 10
    with pytest.raises(ValueError, match=r"timm has no model of that name; did you mean .*resnet10t.c3_in1k"):
        Timm("resnet10t.c4_in1k")


@pytest.mark.parametrize(
    ("bridge", "settings", "message"),
    [
        (Torchvision, {"pretrained": True, "checkpoint": "a.pt"}, "without effect beside a checkpoint"),
        (Torchvision, {"pretrained": True, "small_stem": True}, "would be a fresh layer before"),
        (Timm, {"pretrained": "a1_in1k"}, "pretrained='a1_in1k': must be true or false"),
        (Torchvision, {"pretrained": 1}, "pretrained=1: must be true, false or one of"),
    ],
)
def test_what_makes_no_sense_is_refused(bridge, settings, message):
    with pytest.raises(ValueError, match=message):
        bridge("resnet18", **settings)


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="timm has no weights of botnet50ts_256"):
        Timm("botnet50ts_256", pretrained=True)


def test_a_finetuning_finds_the_run_that_began_with_pretrained_weights(tmp_path):
    """Where weights came from is no part of what the network is."""
    from midstate.runs.find import find_checkpoint

    config = {"model": {"name": "resnet50", "pretrained": True}, "data": {"size": 8}, "pruner": {}, "seed": 0}
    run = tmp_path / "abc" / "seed0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "final.pt").touch()
    (run / "summary.json").write_text('{"status": "finished"}')
    (run / "config.yaml").write_text(str(config))
    later = {**config, "model": {"name": "resnet50", "pretrained": False, "checkpoint": str(tmp_path)}}
    for none in ({}, {"arguments": {}}, {"arguments": None}):
        found = find_checkpoint(str(tmp_path), {**later, "model": {**later["model"], **none}})
        assert found == run / "checkpoints" / "final.pt"
    with pytest.raises(ValueError, match="holds no finished runs"):
        find_checkpoint(str(tmp_path), {**later, "model": {"name": "resnet18"}})
