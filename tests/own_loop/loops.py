"""A network, data, and the loop that is written out by hand, for comparison."""

from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from midstate.common.seeds import seed_for
from midstate.sparsity import L1, NM, SRSTE, Blocks, Hard, Method, Pruner, Schedule, Scope, Uniform, Update

STEPS = 8
METHODS = {
    name: Method(Scope(), NM(2, 4), L1(), Uniform(), Blocks(), Update(), estimator)
    for name, estimator in (("sr_ste", SRSTE(0.05)), ("hard", Hard()))
}
CUBIC = Schedule("cubic", 0, 0.75)
WAYS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
OPTIMIZERS = {
    **{f"sgd-{way}": partial(torch.optim.SGD, lr=0.05, momentum=0.9, **kind) for way, kind in WAYS.items()},
    **{f"adamw-{way}": partial(torch.optim.AdamW, lr=0.01, **kind) for way, kind in WAYS.items()},
}


def network():
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 4))


def batches(number=STEPS):
    draws = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 8, 8, generator=draws), torch.arange(8) % 4) for _ in range(number)]


def gradients(model, optimizer, images, labels, parts=1, scale=lambda loss: loss):
    """Gradients of a batch, taken in parts."""
    optimizer.zero_grad()
    for some, answers in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        loss = cross_entropy(model(some), answers)
        scale(loss / parts).backward()
    return loss


def by_hand(model, optimizer, method, step_of, number=STEPS):
    """The same order and count as `prune`, written out.

    Args:
        step_of: takes gradients and steps: called with a batch, and with what is to be called on them before the step;
            tells whether the step was made.
    """
    pruner = Pruner(model, method, CUBIC, number, number, seed_for(0, "pruning"), "7")
    pruner.tick(0)
    step = 0
    for images, labels in batches(number):
        if step_of(images, labels, lambda step=step: pruner.before_step(optimizer, step)):
            pruner.after_step(optimizer)
            step += 1
            pruner.tick(step)
    pruner.refresh(step)
    return pruner


def assert_same(model, other):
    state, others = model.state_dict(), other.state_dict()
    assert [*state] == [*others]
    for name, tensor in state.items():
        assert tensor.equal(others[name]), name
