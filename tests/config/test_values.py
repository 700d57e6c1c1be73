"""Wrong values are told before torch is loaded, and a sweep's before its first job begins."""

import pkgutil
import subprocess
import sys

import pytest
from conftest import ROOT

from midstate.common.errors import ConfigError
from midstate.config.compose import compose_root
from midstate.config.values import LIMITS, check_values

HUGE = "1" + 310 * "0"  # more than a float can hold
WRONG = {
    ("pruner.n=5", "pruner.m=4"): "pruner.n=5: must be a whole number from 1 to 4",
    ("schedule.stop=200ep",): "schedule.stop='200ep': lies after the run's end (trainer.epochs=15); the target would "
    "never be reached",
    ("schedule.start=9ep", "schedule.stop=3ep"): "schedule.stop='3ep': must not lie before start='9ep'",
    ("schedule.start=3x",): "schedule.start='3x': must be a share of the run from 0 to 1, epochs such as '30ep' or "
    "steps such as '500it'",
    ("optimizer.lr=-1",): "optimizer.lr=-1: must be a number, 0 or more",
    (f"optimizer.factors=[{HUGE}]",): f"optimizer.factors={HUGE}: must be a finite number, 0 or more",
    (f"optimizer.milestones=[{HUGE}]",): f"optimizer.milestones={HUGE}: must be a share of the run from 0 to 1, epochs "
    "such as '30ep' or steps such as '500it'",
    ("trainer.checkpoint_every=0ep",): "trainer.checkpoint_every='0ep': must be epochs such as '1ep' or steps such as "
    "'500it'",
    ("optimizer.every=0.5it",): "optimizer.every='0.5it': must be steps such as '1it' or epochs such as '1ep'",
    ("trainer.epochs=0",): "trainer.epochs=0: must be a whole number, 1 or more",
    ("pruner=magnitude", "pruner.sparsity=1.5"): "pruner.sparsity=1.5: must be a number from 0 to 1",
    (
        "pruner=nm_mixed",
        "pruner.budget=all",
    ): "pruner.budget='all': must be one of params, macs, both",
    ("pruner=magnitude", "pruner/allocation=erk", "pruner.budget=foo"): "pruner.budget='foo': must be one of params, "
    "macs, extracted_params, extracted_macs",
    ("pruner=global_filter", "pruner.budget=macsx"): "pruner.budget='macsx': must be one of params, macs, "
    "extracted_params, extracted_macs, units; did you mean macs?",
    ("pruner=nm", "pruner/allocation=haq", "pruner.budget=size"): "pruner.budget='size': must be one of params, macs",
    ("quantizer=uniform", "quantizer/allocation=budget", "quantizer.budget=both"): "quantizer.budget='both': must be "
    "one of size, bitops, latency",
    ("quantizer=haq", "quantizer.budget=params"): "quantizer.budget='params': must be one of size, bitops, latency",
}


@pytest.mark.parametrize("overrides", WRONG)
def test_a_wrong_value_is_told_from_the_configuration_alone(overrides):
    with pytest.raises(ConfigError) as refused:
        check_values(compose_root(overrides, return_hydra_config=True))
    assert str(refused.value) == WRONG[overrides]


@pytest.mark.parametrize(
    "overrides",
    [
        ("schedule.stop=15ep",),
        ("schedule.stop=1005it", "schedule.start=0.5"),
        ("schedule=one_shot", "schedule.start=2ep"),
        ("pruner=dense", "trainer=default"),
        ("trainer.checkpoint_every=0.5ep", "pruner.every=1e-3ep", "optimizer.every=1.5ep"),
    ],
)
def test_what_only_data_can_tell_is_not_guessed(overrides):
    config = compose_root(overrides, return_hydra_config=True)
    check_values(config)
    assert "hydra" in config


def test_every_class_with_limits_is_there():
    assert all(pkgutil.resolve_name(target) for target in LIMITS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("optimizer.lr=-1",), ["configuration error: optimizer.lr=-1: must be a number, 0 or more"]),
        (
            ("-m", "launcher=pool", "pruner=nm", "pruner.n=1,99", "seed=0,1"),
            [
                "configuration error: pruner.n=99: must be a whole number from 1 to 16",
                "job 2 (launcher=pool pruner=nm pruner.n=99 seed=0); no job has begun",
            ],
        ),
    ],
)
def test_no_torch_is_loaded_and_nothing_written_for_a_wrong_value(tmp_path, arguments, said):
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == said
    assert not [line for line in lines if line.endswith((" torch", " numpy"))]
    assert not list(tmp_path.iterdir())
