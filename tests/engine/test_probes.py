import pytest
import torch
from conftest import TINY, composed, table, tiny
from torch import nn

from midstate.common.errors import ConfigError
from midstate.config.compose import compose_root
from midstate.config.values import check_values
from midstate.data import Split
from midstate.engine.evaluate import evaluate
from midstate.engine.probes import GapProbe, batches_for_batchnorm, reestimated_batchnorm
from midstate.runs.plan import Plan
from midstate.sparsity import L1, NM, SRSTE, Blocks, Direct, Method, Pruner, Schedule, Scope, StepN, Uniform, Update

EVERYTHING = Scope(skip_first=False, skip_classifier=False)


def pruned(path, schedule, pattern=None, model=None):
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(16, 10, bias=False))
    method = Method(EVERYTHING, pattern or NM(1, 16), L1(), Uniform(), path, Update(), SRSTE())
    return model, Pruner(model, method, schedule, 10, 100)


def split(count=64, shape=(16, 1, 1)):
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(count, *shape, generator=generator), torch.randint(0, 10, (count,), generator=generator))


def test_every_state_is_probed_once_and_in_order():
    for path in (StepN(), Blocks()):
        model, pruner = pruned(path, Schedule("linear", 0, 0.5))
        probe = GapProbe(model, pruner, split(), split())
        rows = []
        for step in range(101):
            rows.append(probe.before_refresh(step))
            pruner.tick(step)
        rows = [row for row in rows if row]
        assert [(row["from"], row["to"]) for row in rows] == [(k - 1, k) for k in range(1, 16)]
        assert [row["progress"] for row in rows] == [k / 15 for k in range(1, 16)]
        # State k is first due at the first step whose progress reaches k / 15.
        assert [row["step"] for row in rows] == [-(-k * 50 // 15) for k in range(1, 16)]


def test_a_leap_over_states_is_one_jump():
    model, pruner = pruned(Direct(), Schedule("one_shot", 0.75, 0.75))
    probe = GapProbe(model, pruner, split(), split())
    rows = [row for step in range(100) if (row := probe.before_refresh(step))]
    assert [(row["step"], row["from"], row["to"], row["progress"]) for row in rows] == [(75, 0, 15, 1.0)]


def test_the_gap_is_the_accuracy_lost_between_two_masks_of_the_same_weights():
    """Class 0 reads the large weight, class 1 the small one: one step of N takes the small one away."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    model, pruner = pruned(StepN(), Schedule("linear", 0, 1.0), NM(1, 2), model)
    pruner._weights[0].data.copy_(torch.tensor([[1.0, -0.5], [-0.1, 2.0]]))
    images = torch.tensor([[1.0, 0.0], [0.5, 0.6], [-1.0, 1.0], [1.0, 0.45]]).view(4, 2, 1, 1)
    labels = torch.tensor([0, 1, 1, 0])
    data = Split(images, labels)
    dense = [1.0 * x - 0.5 * y > -0.1 * x + 2.0 * y for x, y in images.flatten(1).tolist()]
    sparse = [1.0 * x > 2.0 * y for x, y in images.flatten(1).tolist()]
    truth = [label == 0 for label in labels.tolist()]
    right = [sum(a == t for a, t in zip(answer, truth, strict=True)) for answer in (dense, sparse)]
    assert right[0] != right[1]
    probe = GapProbe(model, pruner, data, data)
    assert probe.before_refresh(99) is None
    row = probe.before_refresh(100)
    assert row["gap"] == 25.0 * (right[0] - right[1])
    assert row["gap_bn"] == row["gap"]  # nothing to re-estimate
    assert all(mask.all() for mask in pruner.masks)  # put back as they were


def test_a_network_without_batchnorm_sees_the_images_once_in_each_state():
    model, pruner = pruned(StepN(), Schedule("linear", 0, 1.0))
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    row = GapProbe(model, pruner, split(), split(40)).before_refresh(100)
    assert seen == [40, 40]
    assert row["gap_bn"] == row["gap"]


def test_two_states_with_the_same_masks_are_measured_once():
    """Of ten blocks two are under 1:16 at the second of 15 states, and at the third."""
    model, pruner = pruned(Blocks(), Schedule("linear", 0, 1.0))
    probe, seen = GapProbe(model, pruner, split(), split(40)), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    assert probe.before_refresh(14)["to"] == 2
    assert seen == [40, 40]
    row = probe.before_refresh(20)
    assert (row["to"], row["gap"], row["gap_bn"]) == (3, 0, 0)
    assert seen == [40] * 3


def test_batchnorm_is_estimated_on_the_batches_and_restored():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(3, 10))
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = 5 + 2 * torch.randn(200, 3, 1, 1)
    draws = torch.get_rng_state()
    with reestimated_batchnorm(model, images.split(50)):
        assert torch.allclose(model[0].running_mean, images.mean((0, 2, 3)), atol=1e-4)
        assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)  # dropout's draws left training's generator alone
    assert model[0].momentum == 0.1
    assert evaluate(model, Split(images, torch.zeros(200, dtype=torch.int64)))["loss"] > 0


def test_batchnorm_is_restored_after_an_error_too():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 10)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = (torch.randn(50, 3, 1, 1), torch.randn(50, 4, 1, 1))
    with pytest.raises(RuntimeError), reestimated_batchnorm(model, batches):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].momentum == 0.1
    assert not model.training


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1]), (250, [250]), (251, [251]), (501, [251, 250]), (502, [250, 250, 2]), (1001, 4 * [250])],
)
def test_batchnorm_is_never_estimated_on_a_single_image_of_several(count, sizes):
    batches = batches_for_batchnorm(split(count, (3, 1, 1)))
    assert [len(batch) for batch in batches] == sizes
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 10))
    if count > 1:
        with reestimated_batchnorm(model, batches):
            assert model[0].running_mean.any()


def test_gaps_are_of_as_many_images_as_asked_for_and_there_are():
    model, pruner = pruned(Direct(), Schedule("one_shot", 0, 0))
    data = split(200)
    whole, few = GapProbe(model, pruner, split(), data), GapProbe(model, pruner, split(1200), data, 40)
    assert (len(whole.validation), len(few.validation)) == (200, 40)
    assert torch.equal(few.validation.images, data.images[:40])
    assert sum(len(images) for images in few.bn_batches) == 1000  # of training as ever
    model.eval()
    with pruner.trial():
        accuracies = []
        for masks in (pruner.masks_at(0, 0), pruner.masks_at(1, 0)):
            pruner.set_masks(masks)
            answers = model(data.images[:40]).argmax(1)
            accuracies.append(2.5 * int((answers == data.labels[:40]).sum()))
    assert few.before_refresh(0)["gap"] == pytest.approx(accuracies[0] - accuracies[1])


def test_a_run_measures_on_the_images_it_is_given(tmp_path):
    settings = ("pruner=nm", "trainer.epochs=1", "schedule=linear", "trainer.probes=true", "trainer.sensitivity=0.5")
    summary = tiny(tmp_path, *settings, "trainer.probe_images=50")
    rows, layers = table(tmp_path / "probes.csv"), table(tmp_path / "sensitivity.csv")
    points = [float(row[name]) for row in rows for name in ("gap", "gap_bn")]
    points += [float(row["top1_drop"]) for row in layers]
    assert rows
    assert len(layers) == 24
    assert any(points)
    assert all(abs(each / 2 - round(each / 2)) < 1e-4 for each in points)  # of 50 images one is 2 points
    found = {number: planned(*settings, f"trainer.probe_images={number}") for number in (50, 1000, 2000)}
    assert summary["config_hash"] == found[50]
    assert planned(*settings) == found[1000]
    assert len(set(found.values())) == 3


def planned(*settings):
    return Plan.of(composed(*TINY, *settings)).hash


@pytest.mark.parametrize("number", ["0", "-1", "2.5", "all", "true"])
def test_no_number_of_images_is_refused(number):
    with pytest.raises(ConfigError, match=r"trainer\.probe_images=.*: must be a whole number, 1 or more"):
        check_values(compose_root([f"trainer.probe_images={number}"], return_hydra_config=True))
