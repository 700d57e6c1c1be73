"""Gradients and steps against hand derivations: y = (w * mask) . x, so dL/d(w * mask) = x for L = y."""

import pytest
import torch
from torch import nn

from midstate.sparsity import (
    L1,
    NM,
    SRSTE,
    STE,
    Direct,
    Hard,
    Method,
    Pruner,
    Schedule,
    Scope,
    Uniform,
    Update,
)

WEIGHT = torch.tensor([[1.0, -3.0, 2.0, 0.5]])
MASK = torch.tensor([[False, True, True, False]])  # 2:4 of WEIGHT
X = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
EVERY_LAYER = Scope(skip_first=False, skip_classifier=False)


def pruned_linear(estimator, weight=WEIGHT):
    model = nn.Linear(4, 1, bias=False)
    model.weight.data.copy_(weight)
    method = Method(EVERY_LAYER, NM(2, 4), L1(), Uniform(), Direct(), Update(), estimator)
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), steps_per_epoch=10, total_steps=10)
    pruner.tick(0)
    return model, pruner, model.parametrizations.weight.original


@pytest.mark.parametrize("estimator", [Hard(), STE(), SRSTE()])
def test_forward_sees_the_masked_weight(estimator):
    model, _, _ = pruned_linear(estimator)
    assert model(X).item() == -3 * 20 + 2 * 30


@pytest.mark.parametrize(
    ("estimator", "gradient"),
    [
        (Hard(), [[0.0, 20.0, 30.0, 0.0]]),
        (STE(), [[10.0, 20.0, 30.0, 40.0]]),
        (SRSTE(0.1), [[10.0 + 0.1 * 1.0, 20.0, 30.0, 40.0 + 0.1 * 0.5]]),
    ],
)
def test_gradients_by_hand(estimator, gradient):
    model, pruner, weight = pruned_linear(estimator)
    model(X).sum().backward()
    pruner.before_step(torch.optim.SGD(model.parameters(), lr=1))
    assert torch.allclose(weight.grad, torch.tensor(gradient))


def test_sr_ste_without_decay_is_ste():
    gradients = []
    for estimator in (STE(), SRSTE(0.0)):
        model, pruner, weight = pruned_linear(estimator)
        model(X).sum().backward()
        pruner.before_step(torch.optim.SGD(model.parameters(), lr=1))
        gradients.append(weight.grad)
    assert torch.equal(*gradients)


def test_decay_is_neither_scaled_by_a_gradscaler_nor_added_once_per_micro_batch():
    model, pruner, weight = pruned_linear(SRSTE(0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for micro_batch in (X, 3 * X):
        scaler.scale(model(micro_batch).sum() / 2).backward()
    scaler.unscale_(optimizer)
    pruner.before_step(optimizer)
    scaler.step(optimizer)
    pruner.after_step(optimizer)
    gradient = 2 * X + 0.1 * WEIGHT * ~MASK  # the mean of X and 3X, and the decay once
    assert torch.allclose(weight.data, WEIGHT - gradient)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    ],
)
def test_hard_holds_pruned_weights_through_momentum_and_decay(make):
    model, pruner, weight = pruned_linear(Hard())
    optimizer = make(model.parameters())
    pruner.set_masks([torch.ones_like(MASK)])
    for step in range(6):
        if step == 3:  # momentum has built up on all weights by now
            pruner.set_masks([MASK])
            held = weight.data.clone()
        optimizer.zero_grad()
        model(X).sum().backward()
        pruner.before_step(optimizer)
        optimizer.step()
        pruner.after_step(optimizer)
    assert torch.equal(weight.data[~MASK], held[~MASK])
    assert (weight.data[MASK] != held[MASK]).all()
    for key in ("momentum_buffer", "exp_avg"):
        if key in optimizer.state[weight]:
            assert (optimizer.state[weight][key][~MASK] == 0).all()


def test_ste_moves_pruned_weights_and_lets_them_come_back():
    model, pruner, _ = pruned_linear(STE())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(-X).sum().backward()  # pushes every weight up, the pruned ones too
    optimizer.step()
    pruner.tick(1)
    assert pruner.masks[0].int().tolist() == [[0, 0, 1, 1]]


def test_negative_decay_is_refused():
    with pytest.raises(ValueError, match=r"decay=-1: must be a number, 0 or more"):
        SRSTE(-1)
