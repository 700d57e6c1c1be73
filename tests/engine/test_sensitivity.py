"""Sensitivities, by hand and on networks whose layers are known to matter or not."""

import math

import pytest
import torch
from conftest import TINY, composed, table, tiny
from torch import nn

from midstate.common.errors import ConfigError
from midstate.config.compose import compose_root
from midstate.config.values import check_values
from midstate.data import Split
from midstate.engine.sensitivity import COLUMNS, sensitivities, without_smallest
from midstate.runs.run import run
from midstate.sparsity import weight_layers


def test_the_smallest_weights_in_use_go_first():
    weight = torch.tensor([[0.0, -3.0, 1.0], [2.0, -1.0, 0.5]])
    assert without_smallest(weight, 0).equal(weight)
    assert without_smallest(weight, 2).tolist() == [[0, -3, 0], [2, -1, 0]]  # 0.5, then the first of the two 1s
    assert without_smallest(weight, 5).count_nonzero() == 0
    assert weight[1, 2] == 0.5  # a copy


def network():
    """A first layer that decides, and a second that adds next to nothing."""
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0, 0.1, 0, 0], [0.1, 4.0, 0, 0]]))
        model[1].weight.copy_(torch.eye(2))
    return model


def test_each_kind_of_harm_is_measured_and_undone():
    model, images = network(), torch.eye(4)[:2].repeat(10, 1)
    before = [parameter.clone() for parameter in model.parameters()]
    rows = sensitivities(model, weight_layers(model), Split(images, torch.tensor([0, 1] * 10)), 0.5, seed=0)
    assert all(now.equal(then) for now, then in zip(model.parameters(), before, strict=True))
    assert [tuple(row) for row in rows] == [COLUMNS] * 6
    share = {row["layer"]: row for row in rows if row["kind"] == "share"}
    # Half of four weights in use are the two of 0.1: margins grow from 3.9 to 4, so the loss falls a little.
    expected = math.log1p(math.exp(-4)) - math.log1p(math.exp(-3.9))
    assert share["0"]["removed"] == 2
    assert share["0"]["loss_rise"] == pytest.approx(expected, abs=1e-6)
    # Without the first of the two ones, logits are (0, 0.1) for class 0 and (0, 4) for class 1.
    expected = (math.log1p(math.exp(0.1)) + math.log1p(math.exp(-4))) / 2 - math.log1p(math.exp(-3.9))
    assert share["1"]["removed"] == 1
    assert share["1"]["loss_rise"] == pytest.approx(expected, abs=1e-6)
    assert share["1"]["top1_drop"] == 50
    equal = [row["removed"] for row in rows if row["kind"] == "params"]
    assert equal == [1, 1]  # half of the smaller layer's two
    noise = {row["layer"]: row["removed"] for row in rows if row["kind"] == "noise"}
    assert noise == {"0": 0, "1": 2}  # all stay in use; the two ones deviate by nothing, so their noise is 0


def test_a_layer_with_no_weight_in_use_cannot_be_harmed():
    model = network()
    with torch.no_grad():
        model[1].weight.zero_()
    rows = sensitivities(model, weight_layers(model), Split(torch.eye(4), torch.tensor([0, 1, 0, 1])), 0.5, seed=0)
    found = {row["kind"]: (row["removed"], row["loss_rise"], row["top1_drop"]) for row in rows if row["layer"] == "1"}
    assert found == dict.fromkeys(("share", "params", "noise"), (0, 0, 0))


def test_halves_are_measured_as_share_is_on_one_half_of_the_images():
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    images, labels = torch.randn(21, 4, generator=generator), torch.randint(0, 2, (21,), generator=generator)
    kinds = ("share", "first_half", "second_half")

    def rises(part, kinds):
        rows = sensitivities(model, weight_layers(model), Split(images[part], labels[part]), 0.5, 0, kinds)
        return {(row["layer"], row["kind"]): (row["loss_rise"], row["top1_drop"], row["removed"]) for row in rows}

    found = rises(slice(None), kinds)
    first, second = rises(slice(10), ["share"]), rises(slice(10, None), ["share"])
    for layer in "01":
        assert found[layer, "first_half"] == first[layer, "share"]
        assert found[layer, "second_half"] == second[layer, "share"]
        whole = (10 * first[layer, "share"][0] + 11 * second[layer, "share"][0]) / 21
        assert found[layer, "share"][0] == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["trainer.sensitivity_kinds=[thirds]"],
            "trainer.sensitivity_kinds='thirds': must be one of share, params, noise",
        ),
        (["trainer.sensitivity_kinds=[first_half]", "trainer.probe_images=1"], "trainer.probe_images=1: "),
    ],
)
def test_kinds_that_there_are_not_are_refused_before_anything_is_built(settings, message):
    with pytest.raises(ConfigError) as refused:
        check_values(compose_root(settings, return_hydra_config=True))
    assert str(refused.value).startswith(message)


def test_a_run_has_the_same_numbers_of_its_kinds_whatever_else_is_measured(tmp_path):
    asked = ("pruner=nm", "trainer.sensitivity=0.5", "trainer.epochs=1", "trainer.probe_images=40")
    plain, more = (
        tiny(tmp_path / "plain", *asked),
        tiny(tmp_path / "more", *asked, "trainer.sensitivity_kinds=[first_half,share,noise,params,second_half]"),
    )
    rows = {name: table(tmp_path / name / "sensitivity.csv") for name in ("plain", "more")}
    halves = [row for row in rows["more"] if "half" in row["kind"]]
    others = sorted((row for row in rows["more"] if row not in halves), key=str)
    assert others == sorted(rows["plain"], key=str)
    assert len(halves) == 2 * 8
    assert plain["config_hash"] != more["config_hash"]


def test_noise_depends_on_the_seed_alone():
    split = Split(torch.eye(4), torch.tensor([0, 1, 0, 1]))
    model = network()
    first, again, other = (
        [row["loss_rise"] for row in sensitivities(model, weight_layers(model), split, 0.5, seed)] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_run_measures_its_finished_network_if_asked(tmp_path):
    run(composed(*TINY, "pruner=nm", f"run_dir={tmp_path}", "trainer.sensitivity=0.5", "trainer.epochs=1"))
    lines = (tmp_path / "sensitivity.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 1 + 3 * 8  # the layers in scope of resnet8
