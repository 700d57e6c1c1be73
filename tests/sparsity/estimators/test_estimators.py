"""Gradients and steps against hand derivations: y = (w * mask) . x, so dL/d(w * mask) = x for L = y."""

import pytest
import torch
from torch import nn

from midstate.sparsity import (
    L1,
    NM,
    SRSTE,
    STE,
    ConstantScale,
    Direct,
    Filter,
    Hard,
    Method,
    MultiAxis,
    Pruner,
    Schedule,
    Scope,
    Soft,
    Uniform,
    Update,
    Weight,
    multi_axis_mask,
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_hard_puts_the_very_bits_back(dtype):
    after = torch.tensor([-0.0, 0.0, 3.0, torch.inf, -0.0, torch.nan]).to(dtype)
    before = torch.tensor([1.0, -0.0, -0.0, 2.0, 7.0, -0.0]).to(dtype)
    mask = torch.tensor([True, False, True, False, True, False])
    expected = torch.where(mask, after, before)
    weight = nn.Parameter(after.clone())
    Hard().after_step(weight, mask, before.clone(), torch.optim.SGD([weight], 0.1))
    assert weight.detach().view(torch.uint8).equal(expected.view(torch.uint8))


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


def test_soft_trains_dense_zeroes_at_a_refresh_and_lets_filters_regrow():
    model, pruner, weight = pruned_linear(Soft())
    assert torch.equal(weight.data, WEIGHT * MASK)  # zeroed in place
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    (-model(X)).sum().backward()
    assert weight.grad.tolist() == (-X).tolist()  # pruned weights get their gradient
    pruner.before_step(optimizer)
    optimizer.step()
    pruner.after_step(optimizer)
    trained = WEIGHT * MASK + 0.01 * X
    assert torch.allclose(weight.data, trained)
    assert model(X).item() == pytest.approx(float((trained * X).sum()))  # training sees all of them
    model.eval()
    assert model(X).item() == pytest.approx(float((trained * MASK * X).sum()))  # evaluation only what is kept
    model.train()
    with pruner.masked_training():
        assert model(X).item() == pytest.approx(float((trained * MASK * X).sum()))
    weight.data.copy_(torch.tensor([[0.0, 0.1, 0.2, 3.0]]))
    pruner.tick(1)
    assert pruner.masks[0].tolist() == [[False, False, True, True]]  # the last one grew back


def test_soft_with_masked_gradient_stays_zero_but_for_old_momentum():
    """FPGM's released code masks gradients and nothing else: what momentum has gathered still moves the weight."""
    model, pruner, weight = pruned_linear(Soft(mask_gradient=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(X).sum().backward()
        pruner.before_step(optimizer)
        optimizer.step()
    assert (weight.data[~MASK] == 0).all()  # zero, and decay of zero is zero
    optimizer.state[weight]["momentum_buffer"].fill_(1.0)
    optimizer.zero_grad()
    model(X).sum().backward()
    pruner.before_step(optimizer)
    optimizer.step()
    assert torch.allclose(weight.data[~MASK], torch.tensor(-0.09))


def test_multi_axis_scales_forward_and_leaves_the_gradient_alone():
    weight = 0.05 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(8, 4, bias=False)
    model.weight.data.copy_(weight)
    method = Method(EVERY_LAYER, NM(2, 4), L1(), Uniform(), Direct(), Update(), MultiAxis(decay=0.1))
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 10, 10)
    pruner.tick(0)
    soft = multi_axis_mask(weight, 2, 4)
    assert torch.allclose(model.weight, weight * soft)
    x = torch.randn(3, 8)
    model(x).sum().backward()
    original = model.parametrizations.weight.original
    pruner.before_step(torch.optim.SGD(model.parameters(), lr=1))
    expected = x.sum(0).expand(4, 8) + 0.1 * weight * (soft == 0)
    assert torch.allclose(original.grad, expected, atol=1e-6)
    pruner.finalise()
    assert torch.allclose(model.weight, weight * soft)  # the factors are folded in
    assert pruner.verify()


def test_the_constant_control_has_the_mean_of_the_soft_mask():
    weight = 0.05 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(8, 4, bias=False)
    model.weight.data.copy_(weight)
    method = Method(EVERY_LAYER, NM(2, 4), L1(), Uniform(), Direct(), Update(), ConstantScale())
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 10, 10)
    pruner.tick(0)
    soft = multi_axis_mask(weight, 2, 4)
    factors = (model.weight / weight)[soft > 0]
    assert torch.allclose(factors, soft[soft > 0].mean().expand_as(factors))
    assert torch.equal(model.weight != 0, soft > 0)


@pytest.mark.parametrize("estimator", [Hard(), STE(), SRSTE(), Soft(), Soft(mask_gradient=True)])
def test_batchnorm_is_left_alone_by_every_method(estimator):
    """Masks change; BatchNorm's parameters and statistics are touched by training alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
    method = Method(Scope(skip_first=False), Filter(0.5), L1(), Uniform(), Direct(), Update(), estimator)
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 10, 10)
    before = {name: value.clone() for name, value in model[1].state_dict().items()}
    pruner.tick(0)
    pruner.before_step(None)
    pruner.after_step(torch.optim.SGD(model.parameters(), lr=1))
    assert all(torch.equal(value, before[name]) for name, value in model[1].state_dict().items())
    model(torch.randn(4, 1, 2, 2)).square().sum().backward()
    assert (model[1].bias.grad != 0).any()


def test_estimators_without_meaning_are_refused():
    with pytest.raises(ValueError, match="its thresholds are shares of N:M, and pattern=weight has none"):
        Method(Scope(), Weight(0.5), L1(), Uniform(), Direct(), Update(), MultiAxis())
    with pytest.raises(ValueError, match="tau=0: must be"):
        MultiAxis(tau=0)
