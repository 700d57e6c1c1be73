"""What is known when just pruned and when finished, on images that no run sees."""

import json
import shutil

import pytest
import torch
from conftest import composed, write_mnist
from torch.nn.modules.batchnorm import _BatchNorm

from midstate.common.errors import ConfigError
from midstate.config.compose import compose_root
from midstate.config.values import check_values
from midstate.data import Split
from midstate.engine.evaluate import evaluate
from midstate.engine.step import measure_just_pruned, train_step
from midstate.models import load_weights
from midstate.runs import checkpoint
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.runs.report import result_lines
from midstate.runs.run import run

STEPS = 12  # two epochs of six; the window ends at .75 within an epoch, at .5 at an epoch's end
SETTINGS = (
    *("data=fashion_mnist", "data.download=false", "data.size=14", "data.num_train=60", "data.num_validation=20"),
    *("data.num_unused=500", "trainer.epochs=2", "trainer.batch_size=10", "trainer.probes=false", "logger=none"),
    *("pruner=nm_step", "schedule=linear", "optimizer.lr=0.05"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("sets")
    write_mnist(folder, num_train=600)
    return f"data.root={folder}"


def session_of(root, *overrides):
    session = build_session(Plan.of(composed(*SETTINGS, root, *overrides)))
    session.model.train()
    return session


def trained(session, steps):
    for epoch in range(2):
        for images, labels in session.batches.epoch(epoch):
            if session.step == steps:
                return
            train_step(session, images, labels)


def finished(directory, root, *overrides):
    run(composed(*SETTINGS, root, f"run_dir={directory}", *overrides))
    return json.loads((directory / "summary.json").read_text())


def by_hand(model, data) -> float:
    """Top-1 on the unused images with BatchNorm estimated on the training images, one batch after another."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
    model.train()
    with torch.no_grad():
        for images in data.train.images.split(250):
            model(images)
    return evaluate(model, data.unused)["top1"]


@pytest.mark.parametrize("pruner", ["nm_step", "sfp", "nm_mixed pruner.score=erk"])
def test_just_pruned_is_measured_after_the_refresh_that_reaches_the_target(root, pruner):
    given = (f"pruner={pruner}".split(), "schedule=linear", "pruner.every=1it", "trainer.recovery=true")
    overrides = (*given[0], *given[1:])
    session, twin = session_of(root, *overrides), session_of(root, *overrides[:-1])
    stop = session.window.stop
    trained(session, stop)
    assert session.recovery.just_pruned is None
    trained(session, stop + 1)
    # The same steps without it, up to that refresh; weights move only afterwards.
    trained(twin, stop)
    twin.pruner.refresh(stop)
    twin.pruner.finalise()
    assert session.recovery.just_pruned == by_hand(twin.model, twin.data)
    first = session.recovery.just_pruned
    trained(session, STEPS)
    assert session.recovery.just_pruned == first


def test_nothing_else_of_a_run_changes(root):
    plain, measured = session_of(root), session_of(root, "trainer.recovery=true")
    states = []
    for session in (plain, measured):
        trained(session, STEPS)
        saved = session.state_dict()
        states.append((session.losses, saved["rng"].tolist(), session.model.training))
        states[-1] += ([tensor.tolist() for tensor in session.model.state_dict().values()],)
    assert states[0] == states[1]
    assert plain.recovery is None
    assert "just_pruned" not in plain.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["0", "0.5", "0.75", "1.0"])
def test_the_summary_has_both(root, tmp_path, stop):
    summary = finished(tmp_path, root, f"schedule.stop={stop}", "trainer.recovery=true")
    found = summary["recovery"]
    assert list(found) == ["images", "just_pruned", "finished"]
    assert found["images"] == 500
    (line,) = [value for name, value in result_lines(summary) if name == "recovery"]
    assert line == (
        f"{found['just_pruned']:.2f} % when just pruned, {found['finished']:.2f} % when finished, on 500 unused "
        "training images (BatchNorm re-estimated)"
    )
    plan = Plan.of(composed(*SETTINGS, root, "pruner=dense"))
    session = build_session(plan)
    load_weights(session.model, tmp_path / "checkpoints" / "final.pt")
    assert by_hand(session.model, session.data) == found["finished"]
    if stop == "1.0":  # no step is trained in between
        assert found["just_pruned"] == found["finished"]


def test_a_dense_run_is_measured_before_its_first_step(root, tmp_path):
    dense = ("pruner=dense", "trainer.recovery=true")
    summary = finished(tmp_path, root, *dense)
    session = session_of(root, *dense)
    assert by_hand(session.model, session.data) == summary["recovery"]["just_pruned"]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 1])
def test_it_survives_a_stop_before_and_after(root, tmp_path, kept):
    overrides = ("trainer.recovery=true", "trainer.checkpoint_every=5it", "schedule.stop=0.9")
    whole = finished(tmp_path / "whole", root, *overrides)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    saved = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.stem for path in saved] == ["step-000000010", "step-000000012"]  # the target is reached at 11
    for path in saved[kept + 1 :]:
        path.unlink()
    state = torch.load(saved[kept], weights_only=True)
    assert state["just_pruned"] == (whole["recovery"]["just_pruned"] if kept else None)
    (tmp_path / "run" / "summary.json").unlink()
    assert finished(tmp_path / "run", root, *overrides)["recovery"] == whole["recovery"]


@pytest.mark.slow
def test_quantised_and_averaged_networks_are_measured_too(root, tmp_path):
    bits = (
        "pruner=dense",
        "quantizer=uniform",
        "quantizer.weight_bits=4",
        "trainer.recovery=true",
        "schedule.start=0.5",
    )
    found = finished(tmp_path / "bits", root, *bits)["recovery"]
    assert min(found["just_pruned"], found["finished"]) >= 0
    averaged = ("trainer.ema=0.9", "trainer.recovery=true")
    found = finished(tmp_path / "ema", root, *averaged)["recovery"]
    session = session_of(root, *averaged)
    trained(session, session.window.stop + 1)
    assert session.recovery.just_pruned == found["just_pruned"]  # of the weights themselves, as probes


def test_a_second_call_measures_nothing(root):
    session = session_of(root, "trainer.recovery=true")
    measure_just_pruned(session)
    first = session.recovery.just_pruned
    session.recovery.unused = Split(session.data.unused.images[:1], session.data.unused.labels[:1])
    measure_just_pruned(session)
    assert session.recovery.just_pruned == first


def test_it_is_part_of_an_identity_where_it_is_asked_for(root):
    plain, off, on = (
        Plan.of(composed(*SETTINGS, root, *more)).hash
        for more in ((), ("trainer.recovery=false",), ("trainer.recovery=true",))
    )
    assert plain == off != on


@pytest.mark.parametrize("data", [("data=clutter",), ("data=cifar10",), ("data=fashion_mnist", "data.num_unused=0")])
def test_data_without_unused_images_are_refused_before_they_are_read(data):
    with pytest.raises(ConfigError, match=r"trainer\.recovery=true: .*data=mnist, fashion_mnist and kmnist do"):
        Plan.of(composed(*data, "trainer.recovery=true"))


def test_what_is_no_answer_is_refused_before_anything_is_built():
    with pytest.raises(ConfigError, match=r"trainer\.recovery=2: must be true or false"):
        check_values(compose_root(["trainer.recovery=2"], return_hydra_config=True))
