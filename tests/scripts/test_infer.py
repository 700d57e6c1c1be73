"""`bench.py infer`: all ways of a network compute the same; what it says and refuses. Nothing is timed here."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, composed
from torch import nn

from bench import main
from benchmarks import in_openvino, infer, on_gpu
from benchmarks.common import rendered
from benchmarks.loaded import onnx_of, size_in_bytes
from benchmarks.pruned import of_run, pruned
from benchmarks.resident import first_pass
from benchmarks.runtimes import runtimes
from midstate.runs.run import run
from midstate.sparsity import verify_nm, weight_layers

ABOUT = dict.fromkeys(("processor", "cores", "device", "python", "torch", "git", "date"), "x")


class Tiny(nn.Module):
    """Coupled by a sum, with two linear layers of sizes that OpenVINO decompresses where it can."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 128)
        self.classifier = nn.Linear(128, 8)

    def forward(self, images):
        x = self.norm(self.stem(images)).relu()
        x = (x + self.conv(x)).relu().mean((2, 3))
        return self.classifier(self.second(self.first(x).relu()).relu())


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return pruned("tiny", Tiny().eval(), (4, 8, 8))


@pytest.fixture(scope="module")
def rows(network):
    return list(infer.rows_of(network, 1, (1, 4)))


@pytest.fixture(scope="module")
def channels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "channels"
    run(composed("model=resnet8", "pruner=channel", "pruner.sparsity=0.5", *TINY, f"run_dir={directory}"))
    return directory


def test_half_of_the_channels_and_2_4_are_pruned(network):
    half, nm = network.masked.values()
    assert sum(not filter_.any() for filter_ in half.stem.weight) == 8
    assert all(verify_nm(layer.weight, 2, 4) for layer in weight_layers(nm)[1:-1])
    assert not any((layer.weight == 0).any() for layer in weight_layers(network.dense))


@pytest.mark.slow
def test_all_ways_of_a_network_compute_the_same(rows):
    compared = [row for row in rows if row["largest difference of outputs"] != infer.NOTHING]
    assert len(compared) >= 4  # torch's, in any case
    assert all(row["holds"] for row in compared)
    for row in compared:
        if "int8" not in row["runtime"]:
            assert float(row["largest difference of outputs"]) < 1e-4, row


def test_rows_are_complete(rows):
    assert len({tuple(row) for row in rows}) == 1
    assert {row["runtime"] for row in rows} == {runtime.name for runtime in runtimes()}
    ways = [(row["pruning"], row["form"]) for row in rows if row["runtime"] == "torch"]
    pairs = [(pruning, form) for pruning in ("half of the channels", "2:4") for form in ("masked", "extracted")]
    assert ways == [("–", "dense"), *pairs]
    for row in rows:
        measured = [value != infer.NOTHING for key, value in row.items() if "batch" in key or "MiB" in key]
        assert all(measured) or (not any(measured) and row["why"]), row


def test_what_is_not_faster_says_why(rows):
    of = {(row["pruning"], row["form"]): row for row in rows if row["runtime"] == "torch"}
    assert "multiplied like any other" in of["2:4", "masked"]["why"]
    assert of["2:4", "extracted"]["why"].startswith("does not apply: nothing to remove")
    assert of["half of the channels", "extracted"]["MACs, of dense"] < 0.6
    row = {"form": "extracted", "times faster than dense, batch 1": 1.0, "times faster than dense, batch 64": 1.8}
    assert infer._why(row, runtimes()[0], (1, 64)).startswith("no speed-up at batch 1:")


def test_the_table_can_be_shown(rows):
    text = rendered("infer", {"rows": rows, "machine": ABOUT})
    assert text.startswith("| network | pruning | form | runtime |")
    assert "holds" not in text


def test_why_no_weights_are_decompressed(network, monkeypatch):
    convolutions = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10))
    assert "the classifier is the only linear layer" in in_openvino.not_decompressed(convolutions)
    small = nn.Sequential(nn.Flatten(), nn.Linear(256, 100), nn.Linear(100, 10))
    assert "multiples of 64" in in_openvino.not_decompressed(small)
    monkeypatch.setattr(in_openvino, "has_amx", lambda: False)
    assert "no AMX" in in_openvino.not_decompressed(network.dense)


def test_zeros_stay_zeros_in_int8(network):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    content = in_openvino.quantized(onnx_of(network.masked["2:4"], torch.randn(4, 4, 8, 8)), torch.randn(4, 4, 8, 8))
    arrays = [onnx.numpy_helper.to_array(each) for each in onnx.load_from_string(content).graph.initializer]
    weights = [each for each in arrays if each.dtype == np.int8 and each.shape in ((64, 128), (128, 64))]
    assert len(weights) == 1
    assert (weights[0] == 0).mean() >= in_openvino.RATE


def test_int8_runs_in_openvino(network):
    pytest.importorskip("openvino")
    images = torch.randn(4, 4, 8, 8)
    loaded = in_openvino.in_int8(network.masked["2:4"], images)
    assert "linear layers are decompressed" in loaded.note
    expected = network.masked["2:4"](images)
    assert (loaded.load(4)(images) - expected).abs().max() < 0.1 * expected.abs().max()


def test_half_precision_computes_nearly_the_same(network, monkeypatch):
    """What a GPU does, on this processor."""
    monkeypatch.setattr(on_gpu, "DEVICE", "cpu")
    images = torch.randn(4, 4, 8, 8)
    loaded = on_gpu.in_fp16(network.dense, images)
    assert loaded.bytes < 0.6 * size_in_bytes(network.dense)
    with torch.no_grad():
        expected, found = network.dense(images), loaded.load(4)(images.half()).float()
    assert (found - expected).abs().max() < 2e-2 * expected.abs().max()


def test_a_pass_takes_at_least_what_its_activations_do():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    images = torch.randn(16, 3, 128, 128)  # 16 MiB behind the convolution
    with torch.no_grad():
        outputs, peak = first_pass(lambda batch: model, images)
    assert outputs.shape == (16, 16, 1, 1)
    assert peak is None or 15 < peak < 100


def test_a_run_is_taken(channels, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(infer, "runtimes", lambda: runtimes()[:1])
    main(["infer", str(channels), "--repeats", "1", "--json", str(tmp_path / "rows.json")])
    assert f"of {channels} | channel, " in capsys.readouterr().out
    assert (tmp_path / "rows.json").is_file()


def test_beside_a_run_is_the_same_network_without_zeros(channels):
    network = of_run(channels)
    (masked,) = network.masked.values()
    for dense, layer in zip(weight_layers(network.dense), weight_layers(masked), strict=True):
        living = layer.weight != 0
        assert (dense.weight != 0).all()
        assert dense.weight[living].equal(layer.weight[living])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infer", "nowhere"], "configuration error: nowhere: no such directory"),
        (["mask", "nowhere"], "configuration error: nowhere: mask takes no runs; infer does"),
        (
            ["infer", "nowhere", "--docs"],
            "configuration error: --docs: the page has the networks that infer takes without RUN",
        ),
    ],
)
def test_bad_input_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_dense_run_is_refused_before_anything_is_measured(channels, tmp_path, capsys):
    run(composed("model=resnet8", "pruner=dense", *TINY, f"run_dir={tmp_path / 'dense'}"))
    with pytest.raises(SystemExit) as ended:
        main(["infer", str(channels), str(tmp_path / "dense")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"configuration error: {tmp_path / 'dense'}: a dense run; nothing was pruned, so there is nothing to compare\n"
    )


AFTERWARDS = """
import signal, torch
from benchmarks.in_openvino import in_fp32

loaded = in_fp32(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)).eval(), torch.randn(2, 1, 4, 4))
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
passes = [loaded.load(size) for size in (1, 2)]
del passes[0]
del passes[0]
signal.raise_signal(signal.SIGUSR1)
"""


@pytest.mark.slow
def test_a_process_that_has_used_openvino_can_still_be_sent_signals():
    pytest.importorskip("openvino")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["scripts", os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", AFTERWARDS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
