"""S-STE by hand: beta * sign(w) * max(|w| - t, 0), t the largest pruned |w| of the group."""

import pytest
import torch
from torch import nn

from midstate.sparsity import (
    L1,
    NM,
    SSTE,
    STE,
    Blocks,
    Direct,
    Fade,
    Filter,
    Method,
    Pruner,
    Random,
    Schedule,
    Scope,
    StepN,
    Uniform,
    Update,
)
from midstate.sparsity.estimators.s_ste import nearest_scale, shrink

EVERY_LAYER = Scope(skip_first=False, skip_classifier=False)


def pruned(weight, pattern, estimator=None, path=None, schedule=None, criterion=None, scope=EVERY_LAYER):
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.weight.data.copy_(weight)
    method = Method(scope, pattern, criterion or L1(), Uniform(), path or Direct(), Update(), estimator or SSTE())
    pruner = Pruner(model, method, schedule or Schedule("one_shot", 0, 0), steps_per_epoch=10, total_steps=10)
    return model, pruner, model.parametrizations.weight


@pytest.mark.parametrize(
    ("n", "weight", "shrunk"),
    [
        (2, [1.0, -3.0, 2.0, 0.5], [0.0, -2.0, 1.0, 0.0]),  # t = 1
        (1, [1.0, -3.0, 2.0, 0.5], [0.0, -1.0, 0.0, 0.0]),  # t = 2
        (3, [1.0, -3.0, 2.0, 0.5], [0.5, -2.5, 1.5, 0.0]),  # t = 0.5
    ],
)
def test_projection_and_beta_by_hand(n, weight, shrunk):
    weight, shrunk = torch.tensor([weight]), torch.tensor([shrunk])
    model, pruner, parts = pruned(weight, NM(n, 4))
    pruner.tick(0)
    beta = float((weight * shrunk).sum() / (shrunk * shrunk).sum())
    assert beta == pytest.approx({2: (6 + 2) / 5, 1: 3.0, 3: (0.5 + 7.5 + 3) / 8.75}[n])
    assert parts[0].beta.item() == pytest.approx(beta)
    assert torch.allclose(model.weight, beta * shrunk)


def test_beta_is_one_of_the_tensor_and_nearest_to_the_dense_weights():
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    model, pruner, _ = pruned(weight, NM(2, 4))
    pruner.tick(0)
    used = model.weight.detach()

    def distance(factor):
        return float((weight - factor * used).square().sum())

    assert distance(1) < min(distance(0.999), distance(1.001))


def test_the_gradient_is_unchanged():
    x = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    model, pruner, parts = pruned(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), NM(2, 4))
    pruner.tick(0)
    model(x).sum().backward()
    pruner.before_step(torch.optim.SGD(model.parameters(), lr=1))
    assert torch.equal(parts.original.grad, x)


def test_what_is_used_moves_continuously_where_a_hard_mask_jumps():
    """The third weight grows past the second: under a hard mask both jump by about 2, here by no more than it grows."""
    largest = {}
    for estimator in (SSTE(), STE()):
        model, pruner, parts = pruned(torch.tensor([[3.0, 2.0, 1.9, 0.5]]), NM(2, 4), estimator)
        jumps, last = [], None
        for step, value in enumerate(torch.linspace(1.9, 2.1, 201)):
            parts.original.data[0, 2] = value
            pruner.tick(step) if step <= 10 else pruner.set_masks(pruner.masks_at(1.0, step))
            used = model.weight.detach().clone()
            jumps += [] if last is None else [float((used - last).abs().max())]
            last = used
        assert pruner.masks[0].tolist() == [[True, False, True, False]]
        largest[type(estimator)] = max(jumps)
    assert largest[SSTE] < 0.005  # each step is of 0.001, beta of 1.1 to 3
    assert largest[STE] > 1.9


def test_beta_is_found_on_the_way_and_for_good_at_the_target():
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    model, pruner, parts = pruned(weight, NM(1, 4), path=StepN(), schedule=Schedule("linear", 0, 0.6))
    betas = []
    for step in range(10):
        pruner.tick(step)
        betas.append(parts[0].beta.item())
        parts.original.data.mul_(1 + 0.2 * torch.randn(8, 16, generator=torch.Generator().manual_seed(step)))
    assert betas[0] == 1.0  # dense
    assert betas[2] < betas[4] < betas[6]  # N is 3, 2, 1
    assert betas[6:] == [betas[6]] * 4
    state, saved = model.state_dict(), pruner.state_dict()
    again, twin, _ = pruned(weight, NM(1, 4), path=StepN(), schedule=Schedule("linear", 0, 0.6))
    again.load_state_dict(state)
    twin.load_state_dict(saved)
    twin.refresh(10)
    pruner.refresh(10)
    assert torch.equal(again.weight, model.weight)
    assert again.parametrizations.weight[0].beta.item() == betas[6]


def test_masks_that_are_tried_find_no_beta():
    _, pruner, parts = pruned(torch.randn(8, 16), NM(1, 4), path=StepN(), schedule=Schedule("linear", 0, 0.6))
    pruner.tick(2)
    before = {name: buffer.clone() for name, buffer in parts[0].named_buffers()}
    with pruner.trial():
        pruner.set_masks(pruner.masks_at(1.0, 2))
        assert parts[0].beta != before["beta"]
    assert all(torch.equal(buffer, before[name]) for name, buffer in parts[0].named_buffers())
    parts.original.data.normal_()
    pruner.tick(6)
    magnitude = parts.original.detach().abs()
    assert parts[0].beta.item() == pytest.approx(nearest_scale(magnitude, shrink(magnitude, pruner.masks[0], 4)).item())


def test_groups_that_no_mask_has_reached_are_as_they_were_but_for_beta():
    weight = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.1, 0.2, 0.3, 0.4]])
    model, pruner, parts = pruned(weight, NM(1, 4), path=Blocks(), schedule=Schedule("linear", 0, "2it"))
    pruner.tick(1)  # the group of largest norm is at 1:4, t = 3
    assert torch.allclose(model.weight, parts[0].beta * torch.tensor([[1.0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4]]))


@pytest.mark.parametrize("granularity", ["layer", "group"])
def test_every_group_ends_with_no_more_than_n(granularity):
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(2))
    model, pruner, _ = pruned(weight, NM(2, 8), path=StepN(granularity), schedule=Schedule("linear", 0, 0.6))
    for step in range(10):
        pruner.tick(step)
    used = model.weight.detach().clone()
    pruner.finalise()
    assert torch.equal(model.weight, used)  # folded
    assert pruner.verify()
    assert (model.weight.view(8, 4, 8) != 0).sum(2).max() == 2


def test_partial_groups_have_a_threshold_of_their_own():
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, 5.0, -4.0]])
    mask = torch.tensor([[False, True, True, False, True, False]])
    assert shrink(weight.abs(), mask, 4).tolist() == [[0.0, 2.0, 1.0, 0.0, 1.0, 0.0]]


def test_what_another_criterion_keeps_below_the_threshold_is_zero():
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(3))
    model, pruner, parts = pruned(weight, NM(2, 4), criterion=Random())
    pruner.tick(0)
    below = (parts.original.abs().view(16, 4, 4) <= 0).view(16, 16) | (shrink(weight.abs(), pruner.masks[0], 4) == 0)
    assert (model.weight[below] == 0).all()
    assert (model.weight * weight >= 0).all()
    assert (below & pruner.masks[0]).any()


def test_ties_and_zeros_give_zeros_and_no_nan():
    weight = torch.tensor([[2.0, 2.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0]])
    model, pruner, _ = pruned(weight, NM(2, 4))
    pruner.tick(0)
    assert torch.allclose(model.weight, torch.tensor([[0.0] * 4, [0.0] * 4, [3.0, 1.0, 0.0, 0.0]]))
    pruner.finalise()
    assert pruner.verify()


def test_a_layer_of_nothing_but_ties_keeps_what_its_mask_keeps():
    """Its shrunk weights are all 0, and beta, which would bring them back to the dense ones, has no value."""
    model, pruner, parts = pruned(torch.full((2, 8), -0.5), NM(2, 4))
    pruner.tick(0)
    assert model.weight.tolist() == [[-0.5, -0.5, 0.0, 0.0] * 2] * 2
    assert parts[0].beta == 1
    pruner.finalise()
    assert pruner.verify()


def test_small_weights_have_the_beta_of_large_ones():
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(4))
    for scale in (1e-30, 1e30):
        _, pruner, parts = pruned(weight * scale, NM(2, 4))
        pruner.tick(0)
        shrunk = shrink(weight.abs(), pruner.masks[0], 4)
        assert parts[0].beta.item() == pytest.approx(float((weight.abs() * shrunk).sum() / shrunk.square().sum()))


def test_where_it_has_no_meaning_it_is_refused():
    for pattern, path, message in (
        (Filter(0.5), Direct(), "estimator of S-STE: its threshold is one of a group of N:M, and pattern=filter has"),
        (NM(2, 4), Fade(), "path=fade: estimator=s_ste shrinks weights by the largest pruned one"),
    ):
        with pytest.raises(ValueError, match=message):
            Method(Scope(), pattern, L1(), Uniform(), path, Update(), SSTE())
