"""What is unknown is answered with what there is; what is not readable, with how to write it."""

import pytest

from midstate.common.errors import ConfigError
from midstate.config.building import build
from midstate.config.compose import compose_root, composed
from midstate.config.explain import explain
from midstate.config.overrides import check_command_line


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("optimizer.learning_rate=1", "known in optimizer: lr, momentum, nesterov"),
        ("schedule.end=1", "known in schedule: curve, start, stop"),
        ("pruner.ordr=inverse", "did you mean pruner.order?\nknown in pruner: n, m, permute"),
        ("pruner.path.foo=1", "known in pruner: n, m, permute"),
        ("machine.device=1", "known in machine: device_index, workers, prefetch"),
        ("pruner/order=inverse", "did you mean pruner.order?\nknown groups: pruner/allocation, pruner/criterion"),
        ("pruner/pth=blocks", "known groups: pruner/allocation, pruner/criterion"),
        ("path=blocks", "did you mean pruner/path or quantizer/path?"),
        ("foo=1", "the groups are claim, data, debug"),
        ("foo=1", "without a group: seed, run_dir, rerun"),
        ("--batch_size 64", "--batch_size: no such option; a setting is written without dashes"),
        ("--batch-size=64", "did you mean trainer.batch_size?"),
        ("-x", "--help shows what there is"),
        ("pruner=nm -m seed=1", "seed: settings stand on both sides of an option; write all of them behind it"),
        ("optimizer.lr=1=2", "optimizer.lr=1=2: not readable"),
        ("+model.arguments.x=a=b", "put the value into quotes: '+model.arguments.x=\"a=b\"'"),
    ],
)
def test_what_is_unknown_or_unreadable_is_answered_with_what_there_is(typed, message, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", *typed.split(" ")])
    with pytest.raises(Exception) as refused:  # noqa: PT011
        _read(typed.split(" "))
    said = explain(refused.value)
    assert message in said
    assert len(said.splitlines()) <= 3


def _read(arguments):
    check_command_line(arguments)
    compose_root(arguments)


def test_a_key_that_is_added_is_answered_with_what_there_is():
    with pytest.raises(ConfigError, match=r"argument 'momentu'; did you mean momentum\?; known: lr, "):
        build(composed("+optimizer.momentu=1"), "optimizer")
