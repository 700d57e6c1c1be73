"""Kernels of few bits compute what torch computes, and tables of their times hold what is read of them."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from midstate.engine import bitserial
from midstate.engine.latency import integers, latencies
from midstate.quantization import Latency
from midstate.quantization.fixed import FixedSteps
from midstate.quantization.modules import put_before
from midstate.sparsity import weight_layers

CONVOLUTIONS = {
    "plain": nn.Conv2d(16, 8, 3, padding=1),
    "stride": nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 2)),
    "groups": nn.Conv2d(8, 4, 3, groups=2),
    "depthwise": nn.Conv2d(6, 6, 3, padding="same", groups=6, dilation=2),
    "pointwise": nn.Conv2d(130, 4, 1),  # more than two words
}


@pytest.mark.parametrize(
    ("weight_bits", "input_bits", "signed"), [(1, 2, False), (4, 3, True), (8, 8, False), (8, 8, True)]
)
@pytest.mark.parametrize("module", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_bit_planes_give_torchs_integer_convolution(module, weight_bits, input_bits, signed):
    draws = np.random.default_rng(0)
    weight = integers(draws, tuple(module.weight.shape), weight_bits, True)
    image = integers(draws, (module.in_channels, 7, 9), input_bits, signed)
    packed = bitserial.planes(bitserial.filters(module, weight), weight_bits)
    found = bitserial.layer(module, packed, image, input_bits, signed)
    x, w = torch.from_numpy(image.astype(np.int64))[None].double(), torch.from_numpy(weight.astype(np.int64)).double()
    expected = F.conv2d(x, w, None, module.stride, module.padding, module.dilation, module.groups)
    assert np.array_equal(found, expected[0].flatten(1).numpy())


def test_bit_planes_give_torchs_integer_product():
    draws, module = np.random.default_rng(0), nn.Linear(100, 7)
    weight, rows = integers(draws, (7, 100), 5, True), integers(draws, (2, 3, 100), 6, True)
    packed = bitserial.planes(bitserial.filters(module, weight), 5)
    found = bitserial.layer(module, packed, rows, 6, True)
    assert np.array_equal(found, weight.astype(int) @ rows.reshape(-1, 100).astype(int).T)


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 10))


@pytest.mark.parametrize("kernel", ["bitserial", "int8"])
def test_a_table_is_what_a_quantizer_reads(model, kernel, tmp_path):
    pairs = [(1, 2), (8, 8)]
    layers = latencies(model, torch.rand(1, 1, 8, 8), kernel, pairs)
    (tmp_path / "table.json").write_text(json.dumps({"unit": "us", "layers": layers}))
    table = Latency.read(str(tmp_path / "table.json"))
    table.check(weight_layers(model), [*pairs, (32, 32)])
    assert all(table.of("0", *pair) >= 1 for pair in pairs)
    if kernel == "int8":
        assert table.of("0", 1, 2) == table.of("0", 8, 8)
    else:
        assert table.of("3", 1, 2) < table.of("3", 8, 8)  # 2 pairs of planes against 64


def test_a_layer_that_is_called_twice_takes_twice_as_long(model):
    shared = nn.Linear(64, 64)
    model = nn.Sequential(nn.Flatten(), shared, shared)
    assert latencies(model, torch.rand(1, 1, 8, 8), "int8", [(8, 8)])["1"]["us"]["8,8"] >= 2


@pytest.mark.parametrize("kernel", ["bitserial", "int8"])
def test_quantisers_of_inputs_are_not_timed_and_stay(model, kernel):
    calls = []
    for place in (0, 3):
        put_before(model[place], FixedSteps(0.1, -8, 7))
        model[place].input_quantizer.register_forward_hook(lambda *_: calls.append(0))
    latencies(model, torch.rand(1, 1, 8, 8), kernel, [(8, 8)])
    assert not calls
    model(torch.rand(1, 1, 8, 8))
    assert len(calls) == 2


def test_what_cannot_be_timed_is_refused():
    with pytest.raises(ValueError, match=r"0 \(Conv1d\): cannot be timed"):
        latencies(nn.Sequential(nn.Conv1d(1, 1, 1)), torch.rand(1, 1, 8), "int8", [(8, 8)])

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.never = nn.Linear(2, 2)

        def forward(self, x):
            return x

    with pytest.raises(ValueError, match="never: cannot be timed; an image does not go through"):
        latencies(Unused(), torch.rand(1, 2), "int8", [(8, 8)])
