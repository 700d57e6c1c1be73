"""What is in force between two refreshes, masks, factors and learnt combinations: saved, tried, averaged, compiled."""

import copy
import io

import pytest
import torch
from conftest import composed
from torch import nn

from midstate.engine.step import train_step
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.sparsity import (
    L1,
    NM,
    SSTE,
    STE,
    Combinations,
    Direct,
    Fade,
    Frames,
    LearnedCombinations,
    Method,
    Pruner,
    Schedule,
    Scope,
    StepN,
    Uniform,
    Update,
)

STEPS = 8
RUN = ("data=fake", "data.size=8", "data.num_train=256", "data.num_eval=32", "logger=none", "trainer.epochs=1",
       f"trainer.max_steps_per_epoch={STEPS}", "trainer.batch_size=16", "schedule.stop=0.75", "pruner.n=2",
       "pruner.m=8")  # fmt: skip
METHODS = {
    "lbc": ("pruner=lbc",),
    "s_ste": ("pruner=nm_step", "pruner/estimator=s_ste", "pruner.granularity=group"),
    "pgf": ("pruner=pgf", "pruner.every=2it"),
    "frames": ("pruner=pgf", "pruner/path=frames", "pruner.frames=densify"),
}


def session_of(name, *overrides):
    session = build_session(Plan.of(composed(*METHODS[name], *RUN, *overrides)))
    session.model.train()
    return session


def train(session, steps):
    for images, labels in session.batches.epoch(0, session.step):
        if session.step == steps:
            return
        train_step(session, images, labels)


@pytest.fixture(scope="module", params=METHODS)
def whole(request):
    """A method's name, and its run that nothing interrupts."""
    session = session_of(request.param)
    train(session, STEPS)
    return request.param, session


def test_a_run_taken_up_in_the_midst_of_its_ramp_goes_on_to_the_same_bits(whole):
    name, whole = whole
    first = session_of(name)
    for stop in (3, 7):  # on the way, and at the target
        again, file = session_of(name), io.BytesIO()
        train(first, stop)
        torch.save({"step": first.step, **first.state_dict()}, file)
        file.seek(0)
        again.load_state_dict(torch.load(file, weights_only=True))
        train(again, STEPS)
        assert again.losses == whole.losses
        assert again.probe_rows == whole.probe_rows
        state, twin = again.model.state_dict(), whole.model.state_dict()
        assert all(torch.equal(state[key], twin[key]) for key in twin)
    whole.pruner.refresh(STEPS)
    whole.pruner.finalise()
    assert whole.pruner.verify()
    assert [row["progress"] for row in whole.probe_rows][-1] == 1


def test_probes_change_nothing(whole):
    name, with_probes = whole
    without = session_of(name, "trainer.probes=false")
    train(without, STEPS)
    assert with_probes.probe_rows
    assert with_probes.losses == without.losses


def test_learnt_combinations_are_averaged_clipped_and_decayed_like_any_matrix():
    session = session_of("lbc", "trainer.ema=0.5", "trainer.clip_norm=1", "optimizer.weight_decay_1d=false")
    alpha = session.pruner._attached.masked[0].alpha
    decayed, _ = session.optimizer.param_groups  # those of one dimension are in the second
    assert any(parameter is alpha for parameter in decayed["params"])
    train(session, 2)
    assert alpha.grad.any()
    own, used = alpha.detach().clone(), session.pruner.masks[0].clone()
    with session.averaged():
        assert not torch.equal(alpha, own)
        assert torch.equal(session.pruner.masks[0], used)
    assert torch.equal(alpha, own)
    session.take_average()
    session.pruner.refresh(2)
    session.pruner.finalise()
    assert not [name for name in session.model.state_dict() if "alpha" in name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "estimator"),
    [
        (Combinations(), LearnedCombinations()),
        (StepN(), SSTE()),
        (Direct(), SSTE()),
        (Fade(), STE()),
        (Frames("fine"), STE()),
    ],
    ids=lambda axis: type(axis).__name__,
)
def test_compiled_models_see_masks_factors_and_gradients(path, estimator):
    """The graph of forward and backward is traced once, with what is refreshed in place."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))
    method = Method(Scope(False, False), NM(2, 4), L1(), Uniform(), path, Update(), estimator)
    pruner = Pruner(model, method, Schedule("linear", 0, 0.6), 10, 10)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled, images = torch.compile(model, backend=backend), torch.randn(4, 16)
    for step in (0, 3, 6):
        pruner.tick(step)
        gradients = []
        for forward in (compiled, model):
            model.zero_grad()
            output = forward(images)
            output.square().sum().backward()
            gradients.append([output.detach(), *(copy.copy(p.grad) for p in model.parameters())])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert len(graphs) == 1
