import math

import pytest
import torch
from torch import nn, optim
from torch.nn.utils import parametrize

from benchmarks.common import prepared
from midstate.engine.step import train_step
from midstate.optimizers import SGD, AdamW

DEFAULTS = {
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "warmup": "1ep",
    "decay": "cosine",
}


def sgd(**changes):
    return SGD(**{**DEFAULTS, **changes})


def adamw(**changes):
    return AdamW(lr=1e-3, beta1=0.9, beta2=0.99, weight_decay=0.05, warmup="1ep", decay="cosine", **changes)


def test_rate_by_hand():
    rate = sgd().rate(steps_per_epoch=10, total_steps=110)
    assert rate.at(0) == pytest.approx(0.01)
    assert rate.at(9) == rate.at(10) == pytest.approx(0.1)
    assert rate.at(60) == pytest.approx(0.05)
    assert rate.at(109) == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.99)))
    assert sgd(warmup=0, decay="constant").rate(10, 110).at(109) == 0.1
    assert sgd(warmup=0).rate(10, 110).at(0) == 0.1


def test_milestones_by_hand():
    """SFP's rates on CIFAR: 0.01 in the first epoch, then 0.1, 0.02, 0.004, 0.0008."""
    sfp = sgd(
        lr=0.01, warmup=0, decay="steps", milestones=["1ep", "60ep", "120ep", 0.8], factors=[10, 0.2, 0.2, 0.2]
    ).rate(steps_per_epoch=3, total_steps=600)
    steps = (0, 2, 3, 179, 180, 359, 360, 479, 480, 599)
    expected = [0.01, 0.01, 0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008]
    assert [sfp.at(step) for step in steps] == pytest.approx(expected)
    thirds = sgd(warmup="2it", decay="steps", milestones=["30ep", "60ep"]).rate(1, 100)
    assert [thirds.at(step) for step in (0, 1, 29, 30, 59, 60, 99)] == pytest.approx(
        [0.05, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def test_a_rate_set_once_an_epoch():
    """MaxQ's: half of lr * (1 + cos(pi * epoch / epochs)), the same within an epoch."""
    rate = sgd(warmup=0, every="1ep").rate(steps_per_epoch=10, total_steps=40)
    assert {rate.at(step) for step in range(10)} == {0.1}
    assert [rate.at(step) for step in (10, 19, 20, 39)] == pytest.approx([0.0853553, 0.0853553, 0.05, 0.01464466])
    warming = sgd(warmup="4ep", decay="constant", every="1ep").rate(10, 100)
    assert [warming.at(step) for step in (0, 9, 10, 39, 40)] == pytest.approx([0.025, 0.025, 0.05, 0.1, 0.1])
    odd = sgd(warmup="5it", decay="constant", every="4it").rate(10, 100)
    assert [odd.at(step) for step in (0, 3, 4)] == pytest.approx([0.08, 0.08, 0.1])  # never above lr


def test_milestones_have_an_order_and_a_place(caplog):
    with pytest.raises(ValueError, match=r"must come one after another; here they are steps \[20, 10\]"):
        sgd(decay="steps", milestones=["2ep", "10it"]).rate(10, 100)
    sgd(decay="steps", milestones=["2ep"]).rate(10, 20)
    assert "some lie after the run's last step" in caplog.text


def test_times_longer_than_the_run_are_warned_of(caplog):
    sgd(warmup="2ep", every="20it").rate(10, 20)
    assert not caplog.text
    assert sgd(warmup="21it").rate(10, 20).at(19) < 0.1
    sgd(every="3ep").rate(10, 20)
    assert (
        "optimizer.warmup=21it is longer than the run (21 steps, and it has 20): the rate does not come to lr=0.1"
        in (caplog.text)
    )
    assert "optimizer.every=3ep is longer than the run (30 steps, and it has 20): the rate is set once" in caplog.text


@pytest.mark.parametrize("create", [sgd, adamw])
def test_vectors_do_not_decay_where_asked(create):
    """With gradients of 0 a step is the decay alone; a masked weight is still a matrix under another name."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    create(weight_decay_1d=False).create(model).step()
    changed = {name for name, parameter in model.named_parameters() if not (parameter == 1).all()}
    assert changed == {"0.parametrizations.weight.original"}
    create().create(model).step()
    assert all((parameter < 1).all() for parameter in model.parameters())


def test_pruned_weights_lose_their_momentum_in_any_group():
    session = prepared(
        "data=fake", "data.num_train=128", "pruner=filter", "schedule=one_shot", "optimizer.weight_decay_1d=false"
    )
    for images, labels in session.batches.epoch(0, 0):
        train_step(session, images, labels)
    assert [group["weight_decay"] for group in session.optimizer.param_groups] == [5e-4, 0]
    for layer, mask in zip(session.pruner.layers, session.pruner.masks, strict=True):
        weight = layer.module.parametrizations.weight.original
        assert not session.optimizer.state[weight]["momentum_buffer"][~mask].any()


def test_torch_gets_what_was_set():
    made = sgd().create(nn.Linear(2, 2))
    assert isinstance(made, optim.SGD)
    assert {k: made.defaults[k] for k in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
    }
    made = adamw().create(nn.Linear(2, 2))
    assert isinstance(made, optim.AdamW)
    assert made.defaults["betas"] == (0.9, 0.99)


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": -1},
        {"lr": float("nan")},
        {"lr": "fast"},
        {"momentum": 2},
        {"nesterov": 1},
        {"momentum": 0},
        {"weight_decay": -1},
        {"warmup": 5},
        {"decay": "cubic"},
        {"every": "0it"},
        {"every": 1},
        {"weight_decay_1d": "no"},
        {"milestones": ["30ep"]},  # the cosine reads none
        {"factors": 0.2},
        {"milestones": [], "decay": "steps"},
        {"milestones": "30ep", "decay": "steps"},
        {"milestones": [30], "decay": "steps"},
        {"factors": [0.1, 0.1], "decay": "steps", "milestones": ["30ep"]},
        {"factors": "a", "decay": "steps", "milestones": ["30ep"]},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
        sgd(**bad)
