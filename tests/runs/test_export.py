"""scripts/export.py: what each format's file holds, that others can read it, and what is refused."""

import json
import re
import shutil
from dataclasses import asdict

import pytest
import timm
import torch
import torchvision
from conftest import ROOT, composed, tiny
from safetensors import safe_open
from safetensors.torch import load_file

import midstate.models
from export import FORMATS, main
from midstate.formats import onnx
from midstate.formats.packed import packed, unpacked
from midstate.formats.semi_structured import converted
from midstate.models import Timm, Torchvision
from midstate.models.original import call_of
from midstate.runs import export_formats
from midstate.runs.directory import clear
from midstate.runs.files import EXPORTED
from midstate.runs.run import run
from midstate.verify.judging import judged

OLD_RUN = ROOT / "tests" / "format_1"  # 1:16, this project's own network
PAGE = (ROOT / "docs" / "export.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
SHORT = (
    "data=fake",
    "data.num_train=64",
    "data.num_eval=32",
    "trainer.epochs=1",
    "trainer.max_steps_per_epoch=2",
    "trainer.probes=false",
    "logger=none",
)


@pytest.fixture(scope="module")
def filters(tmp_path_factory):
    """ResNet-18 of torchvision, half of its filters gone."""
    directory = tmp_path_factory.mktemp("runs") / "filters"
    half = ("pruner=filter", "pruner.sparsity=0.5", "schedule.stop=0.5", "model.small_stem=false")
    run(composed("model=torchvision", "model.name=resnet18", *half, *SHORT, f"run_dir={directory}"))
    return directory


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A small ViT of timm at 2:4."""
    directory = tmp_path_factory.mktemp("runs") / "vit"
    arguments = "model.arguments={img_size: 32, patch_size: 8}"
    nm = ("pruner=nm", "pruner.n=2", "pruner.m=4")
    run(composed("model=timm", "model.name=test_vit", arguments, *nm, *SHORT, f"run_dir={directory}"))
    return directory


def final(place):
    return torch.load(place / "checkpoints" / "final.pt", weights_only=True)["model"]


def export(place, kind, out, *more):
    assert main([str(place), "--format", kind, "--out", str(out), *more]) == 0
    assert {path.name for path in out.iterdir()} <= {*EXPORTED}  # so that rerun=true removes them, and nothing partial


def test_a_run_that_begins_anew_has_no_exports(tmp_path):
    place = tmp_path / "run"
    shutil.copytree(OLD_RUN, place)
    assert main([str(place), "--format", "packed"]) == 0
    (place / "export" / "mine").touch()
    clear(place)
    assert [path.name for path in (place / "export").iterdir()] == ["mine"]


MODELS = {
    "googlenet": (Torchvision("googlenet"), "torchvision.models.get_model('googlenet', weights=None, num_classes=10, "),
    "test_vit": (
        Timm("test_vit", arguments={"img_size": 32}),
        "timm.create_model('test_vit', in_chans=3, num_classes=",
    ),
    "resnet18": (
        Torchvision("resnet18", small_stem=True),
        "midstate.models.Torchvision(name='resnet18', small_stem=Tr",
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_the_call_that_makes_a_network(name):
    recipe, begins = MODELS[name]
    model = recipe.create(3, 10)
    settings = {"_target_": f"midstate.models.{type(recipe).__name__}", **asdict(recipe)}
    call, of_library = call_of(settings, model, 3, 10)
    assert call.startswith(begins)
    assert of_library == (name != "resnet18")
    again = eval(call, {"torchvision": torchvision, "timm": timm, "midstate": midstate})
    again.load_state_dict(model.state_dict(), strict=True)


def test_the_formats_are_those_of_the_command_and_the_page():
    assert list(FORMATS) == list(export_formats.FORMATS)
    assert re.findall(r"^\| `(\w+)` \| `(?:model|small|semi|packed)", PAGE, re.MULTILINE) == list(FORMATS)


def test_weights_load_into_the_unmodified_network(filters, tmp_path, monkeypatch, capsys):
    for kind, name in (("dense", "model.pt"), ("safetensors", "model.safetensors")):
        export(filters, kind, tmp_path / "export")
        told = capsys.readouterr().out.splitlines()
        call = "torchvision.models.get_model('resnet18', weights=None, num_classes=10)"
        assert told[0] == f"loads, strictly, into the unmodified {call}"
        assert told[-1] == f"file: {tmp_path / 'export' / name}"
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(EXAMPLES["dense"], scope)
    assert scope["recipe"]["network"] == call
    assert all(value.equal(scope["state"][name]) for name, value in final(filters).items())
    network = torchvision.models.resnet18(num_classes=10)
    network.load_state_dict(load_file("export/model.safetensors"), strict=True)
    recipe = json.loads(safe_open("export/model.safetensors", "pt").metadata()["midstate"])
    assert recipe == scope["recipe"]
    assert recipe["config"]["pruner"]["sparsity"] == 0.5
    assert recipe["image"] == [3, 32, 32]


@pytest.mark.slow
def test_the_network_without_its_dead_channels(filters, tmp_path, capsys):
    export(filters, "small", tmp_path)
    program, weights = torch.export.load(tmp_path / "small.pt2"), load_file(tmp_path / "small.safetensors")
    assert all(value.equal(weights[name]) for name, value in program.state_dict.items())
    left, whole = (sum(value.numel() for value in state.values()) for state in (weights, final(filters)))
    assert left < 0.9 * whole
    assert program.module()(torch.zeros(3, 3, 32, 32)).shape == (3, 10)
    assert re.match(r"[\d,]+ of [\d,]+ parameters are left", capsys.readouterr().out)


def test_semi_structured_layers_are_the_same_bits(vit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = final(vit)
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        export(vit, "semi_structured", tmp_path / "export", "--dtype", name)
        told = capsys.readouterr().out
        assert f"values ({name}) and metadata, read back to the same bits" in told
        assert "nothing runs faster on this machine" in told
        scope = {}
        exec(EXAMPLES["semi_structured"], scope)
        assert "blocks.0.attn.qkv.weight" in scope["weights"]
        for layer, sparse in scope["weights"].items():
            assert sparse.to_dense().equal(state[layer].to(dtype))
        found = {each.name: each for each in judged(tmp_path / "export" / "semi_structured.safetensors").layers}
        assert found.keys() == {each.name for each in judged(vit / "checkpoints" / "final.pt").layers}
        assert (found[layer].pattern, found[layer].along) == ((2, 4), ["input"])
    with pytest.raises(ValueError, match="cannot hold"):
        converted({"a": torch.tensor([1e6, 0, 0, 0]).repeat(32, 16)}, torch.float16)


def test_packed_is_read_by_the_page(filters, vit, tmp_path, capsys):
    scope = {}
    exec(EXAMPLES["packed"], scope)
    assert len(EXAMPLES["packed"].partition("def")[2].splitlines()) <= 15
    for place in (filters, vit, OLD_RUN):
        export(place, "packed", tmp_path)
        state, read = final(place), scope["read"](tmp_path / "packed.safetensors")
        assert state.keys() == read.keys()
        assert all(torch.from_numpy(read[name]).equal(value) for name, value in state.items())
        told = capsys.readouterr().out.replace(",", "")
        dense, theory, size = map(int, re.findall(r"(\d+) (?:dense|in theory|packed)", told))
        assert theory <= size < dense
        assert size <= 1.15 * theory
        files = (tmp_path / "packed.safetensors", place / "checkpoints" / "final.pt")
        own, original = ({each.name: each for each in judged(file).layers} for file in files)
        assert own == original


def test_packing_any_shape():
    torch.manual_seed(0)
    state = {"a": torch.randn(5, 3, 3, 3), "b": torch.zeros(4, 9), "c": torch.randn(7), "d": torch.randn(6, 20).half()}
    state["a"][:, 1:] = 0
    state["d"][torch.rand(6, 20) < 0.9] = 0
    tensors = packed(state)
    assert {"a.bitmask", "c", "d.bitmask"} <= {*tensors}
    back = unpacked(tensors)
    assert all(value.equal(back[name]) for name, value in state.items())


@pytest.mark.slow
@pytest.mark.parametrize("extracted", [False, True])
def test_onnx_computes_the_same(filters, tmp_path, capsys, extracted):
    for name in onnx.NEEDED:
        pytest.importorskip(name)
    import onnxruntime

    export(filters, "onnx", tmp_path, *["--extracted"] * extracted)
    file = tmp_path / ("small.onnx" if extracted else "model.onnx")
    assert "in onnxruntime 16 images' outputs differ from torch's by" in capsys.readouterr().out
    images = torch.randn(5, 3, 32, 32)
    network = torchvision.models.resnet18(num_classes=10)
    network.load_state_dict(final(filters))
    (found,) = onnxruntime.InferenceSession(file.read_bytes()).run(None, {"images": images.numpy()})
    expected = network.eval()(images).detach()
    assert (torch.from_numpy(found) - expected).abs().max() <= 1e-4 * max(1, expected.abs().max())


@pytest.mark.slow
def test_onnx_of_attention(vit, tmp_path):
    for name in onnx.NEEDED:
        pytest.importorskip(name)
    export(vit, "onnx", tmp_path)


def test_without_onnx_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnx" else 1)
    assert refused(capsys, OLD_RUN, "onnx", tmp_path / "new") == (
        "configuration error: format=onnx: needs onnx: pip install onnx onnxscript onnxruntime, or 'midstate[export]'"
    )


def refused(capsys, place, kind, out, *more):
    assert main([str(place), "--format", kind, "--out", str(out), *more]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert not out.exists() or out.is_file()
    (line,) = told.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("small", "nothing to remove"),
        ("semi_structured", "there is no linear layer to convert: none of them obeys 2:4"),
    ],
)
def test_what_a_run_has_not(tmp_path, capsys, kind, told):
    assert told in refused(capsys, OLD_RUN, kind, tmp_path / "new")


def test_what_is_no_finished_run(tmp_path, capsys):
    assert "no such directory" in refused(capsys, tmp_path / "none", "dense", tmp_path / "new")
    place = tmp_path / "run"
    shutil.copytree(OLD_RUN, place)
    summary = json.loads((place / "summary.json").read_text())
    (place / "summary.json").write_text(json.dumps({**summary, "status": "stopped"}))
    assert "this run is not finished (stopped)" in refused(capsys, place, "dense", tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    assert "is a file; name a directory" in refused(capsys, OLD_RUN, "dense", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("typed", [["--format", "gguf"], [], ["--format", "dense", "--dtype", "fp16"]])
def test_what_cannot_be_typed(typed, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(OLD_RUN), *typed])


def test_rounded_inputs_and_dense_weights_are_refused(tmp_path, capsys):
    place = tmp_path / "run"
    tiny(place, "pruner=dense", "quantizer=lsq", "trainer.epochs=1", "trainer.max_steps_per_epoch=2")
    capsys.readouterr()
    for kind in ("dense", "safetensors", "packed", "semi_structured"):
        assert "holds weights alone, and this network rounds inputs" in refused(capsys, place, kind, tmp_path / "new")
