"""Sensitivity by level, on a network small enough to be counted by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from midstate.data import Split
from midstate.engine.evaluate import evaluate
from midstate.engine.levels import COLUMNS, expansions, has_kind, sensitivities_by_level
from midstate.quantization import Uniform
from midstate.quantization.fixed import FixedSteps
from midstate.quantization.modules import put_before
from midstate.sparsity import NM, weight_layers

ASKED = {"weights": [0.5, 1.0], "filters": [0.5], "nm": [(1, 2)], "bits": [2], "input_bits": [2]}


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight[0] = 0  # a filter that is not in use
    return model


@pytest.fixture
def split():
    torch.manual_seed(1)
    return Split(torch.randn(30, 2, 4, 4), torch.arange(30) % 3)


def test_each_level_is_what_it_says_and_is_undone(network, split):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    calls = []
    rows = sensitivities_by_level(network, weight_layers(network), split, ASKED, {"0": 7}, lambda: calls.append(0))
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
    assert not network[0]._forward_pre_hooks
    assert len(rows) == len(calls) == 12
    assert set(rows[0]) == set(COLUMNS[:-2])
    found = [(row["kind"], row["level"], row["full"], row["removed"]) for row in rows if row["layer"] == "0"]
    assert found == [
        ("weights", 27, 54, 0.5),  # of 72, of which a filter of 18 is not in use
        ("weights", 0, 54, 1.0),
        ("filters", 2, 3, pytest.approx(1 / 3)),  # floor(1.5) filters go
        ("nm", 1, 2, 0.5),
        ("bits", 2, 32, 0.0),
        ("input_bits", 2, 32, 0.0),
    ]
    assert (rows[0]["depth"], rows[0]["params"], rows[0]["macs"], rows[-1]["macs"]) == (0, 72, 7, 0)


def test_losses_are_those_of_the_changed_network(network, split):
    rows = {(row["layer"], row["kind"], row["level"]): row for row in _rows(network, split)}
    dense = evaluate(network, split)

    def rise(weight):
        changed = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        changed.load_state_dict({**network.state_dict(), "3.weight": weight})
        return evaluate(changed, split)["loss"] - dense["loss"]

    weight, grid = network[3].weight.detach(), Uniform()
    step = grid.memory(weight, 2)
    grid.fit(weight, 2, step)
    assert rows["3", "weights", 0]["loss_rise"] == pytest.approx(rise(torch.zeros_like(weight)))
    assert rows["3", "nm", 1]["loss_rise"] == pytest.approx(rise(weight * NM(1, 2).mask(weight.abs(), 1)))
    assert rows["3", "bits", 2]["loss_rise"] == pytest.approx(rise(grid.quantise(weight, 2, step)))
    assert rows["3", "input_bits", 2]["loss_rise"] != 0


class Attending(nn.Module):
    """The attention's output projection is a layer, but its weight goes to a function."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        tokens = x.flatten(2)  # (N, 2, 16)
        tokens = tokens.unflatten(2, (4, 4)).flatten(1, 2)
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


class ByName(nn.Sequential):
    """As the layers in turn, but each is called by the name of its input."""

    def forward(self, x):
        for layer in self:
            x = layer(input=x)
        return x


def test_inputs_may_be_passed_by_name(split):
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3)
    tables = []
    for model in (nn.Sequential(*layers), ByName(*layers)):
        tables.append(sensitivities_by_level(model, weight_layers(model), split, {"input_bits": [2]}, {}))
    assert tables[0] == tables[1]
    assert any(row["loss_rise"] for row in tables[0])


def test_a_layer_that_is_never_called_has_no_levels_of_inputs(split):
    torch.manual_seed(0)
    model, calls = Attending(), []
    asked = {"weights": [0.5], "input_bits": [2, 4]}
    rows = sensitivities_by_level(model, weight_layers(model), split, asked, {}, lambda: calls.append(0))
    assert [(row["layer"], row["kind"]) for row in rows] == [
        ("attention.in_proj_weight", "weights"),
        ("attention.out_proj", "weights"),
        *[("head", kind) for kind in ("weights", "input_bits", "input_bits")],
    ]
    assert len(calls) == sum(
        len(levels) * has_kind(layer, kind) for layer in weight_layers(model) for kind, levels in asked.items()
    )


def _rows(network, split):
    return sensitivities_by_level(network, weight_layers(network), split, ASKED, {})


def test_first_and_second_order_are_those_of_a_layer_by_hand(split):
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3, bias=False))
    put_before(model[1], FixedSteps(1.0, -1, 1))  # of a finished network; without it the layer's inputs are x
    (found,) = expansions(model, weight_layers(model), split, ("taylor", "hessian"), seed=0)
    weight = model[1].weight.detach().clone().requires_grad_()

    def loss(w):
        return F.cross_entropy(split.images.flatten(1) @ w.T, split.labels)

    (slope,) = torch.autograd.grad(loss(weight), weight)
    exact = torch.autograd.functional.hessian(loss, weight.detach()).reshape(96, 96).trace()
    assert found["taylor"] == pytest.approx(float((weight * slope).square().sum().detach()), rel=1e-4)
    assert found["hessian_trace"] == pytest.approx(float(exact), rel=0.2)  # estimated
    assert expansions(model, weight_layers(model), split, (), seed=0) == [{}]
