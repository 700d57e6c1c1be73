"""bfloat16 and channels-last training: what they may change, and what they may not."""

import pytest
import torch
from conftest import TINY, composed

from midstate.common.errors import ConfigError
from midstate.engine.evaluate import evaluate
from midstate.engine.step import train_step
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session

# How far the losses of 24 steps may lie from float32's: bfloat16 has 8 bits, an order of sums the last of 24.
DISTANCE = {"trainer.precision=bf16": 0.1, "trainer.channels_last=true": 1e-3}


def losses(*overrides):
    """The losses of 24 steps."""
    session = build_session(Plan.of(composed(*TINY, "pruner=nm_block", "trainer.probes=false", *overrides)))
    session.model.train()
    for epoch in range(4):
        for batch in session.batches.epoch(epoch):
            train_step(session, *batch)
    assert len(session.losses) == 24
    return session.losses


@pytest.mark.slow
def test_losses_stay_near_those_of_float32():
    fp32 = losses()
    for setting, distance in DISTANCE.items():
        found = [abs(one - other) for one, other in zip(fp32, losses(setting), strict=True)]
        assert max(found) < distance, setting


def test_weights_optimizer_and_masks_stay_what_they_are(tmp_path):
    settings = ("trainer.precision=bf16", "trainer.channels_last=true", "trainer.probes=false")
    plan = Plan.of(composed(*TINY, "pruner=nm_block", *settings))
    session = build_session(plan)
    session.model.train()
    for images, labels in session.batches.epoch(0, 0):
        train_step(session, images, labels)
    assert {parameter.dtype for parameter in session.model.parameters()} == {torch.float32}
    assert {mask.dtype for mask in session.pruner.masks} == {torch.bool}
    assert {buffer.dtype for state in session.optimizer.state.values() for buffer in state.values()} == {torch.float32}


@pytest.mark.parametrize("data", [TINY[:2], ("data=digits",)])  # images of three channels, and of one
def test_training_takes_the_settings_and_evaluations_the_layout(data):
    settings = ("pruner=nm_block", "trainer.precision=bf16", "trainer.channels_last=true")
    plan = Plan.of(composed(*data, *TINY[2:], *settings))
    session = build_session(plan)
    seen = []
    convolution = session.pruner.layers[0].module
    convolution.register_forward_hook(
        lambda module, inputs, output: seen.append(
            (output.dtype, inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
    )
    session.model.train()
    train_step(session, *next(session.batches.epoch(0)))
    evaluate(session.model, session.data.validation)
    assert seen[0] == (torch.bfloat16, True)
    assert seen[-1] == (torch.float32, True)


def test_auto_is_decided_and_recorded():
    plan = Plan.of(composed(*TINY, "trainer.precision=auto"))
    assert plan.config["trainer"]["precision"] in ("fp32", "bf16")
    assert build_session(plan).settings.precision == plan.config["trainer"]["precision"]


def test_defaults_keep_the_identity_that_runs_had_before():
    assert Plan.of(composed(*TINY)).hash == Plan.of(composed(*TINY, "trainer.precision=fp32")).hash
    assert Plan.of(composed(*TINY)).hash != Plan.of(composed(*TINY, "trainer.precision=bf16")).hash


def test_other_precisions_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"trainer\.precision='fp8': must be one of auto, fp32, bf16"):
        Plan.of(composed("trainer.precision=fp8"))
