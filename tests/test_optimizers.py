import math

import pytest
from torch import nn, optim

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


def test_rate_by_hand():
    rate = sgd().rate(steps_per_epoch=10, total_steps=110)
    assert rate.at(0) == pytest.approx(0.01)
    assert rate.at(9) == rate.at(10) == pytest.approx(0.1)
    assert rate.at(60) == pytest.approx(0.05)
    assert rate.at(109) == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.99)))
    assert sgd(warmup=0, decay="constant").rate(10, 110).at(109) == 0.1
    assert sgd(warmup=0).rate(10, 110).at(0) == 0.1


def test_torch_gets_what_was_set():
    parameters = list(nn.Linear(2, 2).parameters())
    made = sgd().create(parameters)
    assert type(made) is optim.SGD
    assert {k: made.defaults[k] for k in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
    }
    made = AdamW(1e-3, 0.9, 0.99, 0.05, "1ep", "cosine").create(parameters)
    assert type(made) is optim.AdamW
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
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
        sgd(**bad)
