"""LBC by hand: one group of 2:4 has the combinations (0,1), (0,2), (0,3), (1,2), (1,3), (2,3), in this order."""

import pytest
import torch
from torch import nn

from midstate.sparsity import (
    ERK,
    L1,
    NM,
    STE,
    Budget,
    Combinations,
    Direct,
    Global,
    Hard,
    LayerView,
    LearnedCombinations,
    Method,
    Pruner,
    Schedule,
    Scheme,
    Scope,
    Uniform,
    Update,
    Weight,
    nm_mask,
)
from midstate.sparsity.paths.combinations import combinations_of, in_groups, out_of_groups

EVERY_LAYER = Scope(skip_first=False, skip_classifier=False)
WEIGHT = torch.tensor([[1.0, -3.0, 2.0, 0.5]])
X = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
ALPHA = torch.tensor([[0.1, 0.2, 0.9, 0.3, 0.8, 0.7]])  # from worst to best: 01, 02, 12, 23, 13, 03


def lbc(model, pattern=None, allocation=None, estimator=None, schedule=None, update=None):
    axes = (allocation or Uniform(), Combinations(), update or Update(), estimator or LearnedCombinations())
    method = Method(EVERY_LAYER, pattern or NM(2, 4), L1(), *axes)
    return Pruner(model, method, schedule or Schedule("linear", 0, "10it"), steps_per_epoch=10, total_steps=20)


def one_group():
    model = nn.Linear(4, 1, bias=False)
    model.weight.data.copy_(WEIGHT)
    pruner = lbc(model)
    return model, pruner, model.parametrizations.weight


def test_combinations_come_in_the_order_of_positions_kept():
    expected = [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    assert combinations_of(2, 4).tolist() == expected
    assert combinations_of(1, 3).tolist() == torch.eye(3).tolist()


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 2, 1), (2, 4, 5)])
def test_groups_and_back(shape):
    weight = torch.randn(shape)
    rows = in_groups(weight, 4)
    assert rows.shape == (weight.numel() // 4, 4)
    assert rows[0].equal(weight[0, :4].flatten(1)[:, 0] if weight.dim() > 2 else weight[0, :4])
    assert torch.equal(out_of_groups(rows, weight.shape, 4), weight)


@pytest.mark.parametrize(
    ("p", "mask"),
    [
        (0.2, [1, 1, 1, 1]),  # 01 is gone
        (0.399, [1, 1, 1, 1]),  # floor(5 p) is still 1
        (0.4, [1, 1, 1, 1]),  # 02 as well
        (0.6, [1, 1, 1, 1]),  # 12: left are 03, 13, 23
        (0.8, [1, 1, 0, 1]),  # 23: left are 03, 13
        (1.0, [1, 0, 0, 1]),  # 13: left is 03
    ],
)
def test_a_weight_is_in_use_while_a_combination_that_remains_includes_it(p, mask):
    model, pruner, parts = one_group()
    parts[0].alpha.data.copy_(ALPHA)
    pruner.set_masks(pruner.masks_at(p, 4))
    assert pruner.masks[0].int().tolist() == [mask]
    assert model(X).item() == pytest.approx(float((WEIGHT * torch.tensor([mask]) * X).sum()))


def test_what_goes_is_set_to_zero_and_may_come_back():
    _, pruner, parts = one_group()
    parts[0].alpha.data.copy_(ALPHA)
    pruner.tick(4)
    assert parts[0].alpha.tolist() == torch.tensor([[0, 0, 0.9, 0.3, 0.8, 0.7]]).tolist()
    parts[0].alpha.data[0, 1] = 2.0  # what its gradients may do
    pruner.tick(8)
    assert parts[0].alpha.tolist() == torch.tensor([[0, 2.0, 0.9, 0, 0, 0]]).tolist()
    assert pruner.masks[0].int().tolist() == [[1, 0, 1, 1]]


def test_alphas_begin_at_one_over_the_combinations_of_a_weight():
    _, _, parts = one_group()
    assert parts[0].alpha.tolist() == torch.full((1, 6), 1 / 3).tolist()  # each weight is in 3, which sum to 1


def test_gradients_by_hand():
    """With L = y the masked weight's gradient is x; that of a combination that remains is the sum of x * w over it."""
    model, pruner, parts = one_group()
    parts[0].alpha.data.copy_(ALPHA)
    pruner.tick(8)
    model(X).sum().backward()
    assert parts.original.grad.tolist() == [[10.0, 20.0, 0.0, 40.0]]
    products = [10.0, -60.0, 60.0, 20.0]
    sums = [products[i] + products[j] for i, j in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]]
    remains = parts[0].alpha[0] != 0
    assert 0 < remains.sum() < 6
    assert parts[0].alpha.grad.tolist() == [[each if left else 0.0 for each, left in zip(sums, remains, strict=True)]]


def test_gradients_are_those_of_a_straight_through_mask():
    """The same by autograd: mask = v + (binary - v) without a gradient of its own; v = remaining alpha @ sets."""
    torch.manual_seed(0)
    model = nn.Conv2d(8, 6, 3, bias=False)
    pruner = lbc(model)
    weight, alpha = model.parametrizations.weight.original, model.parametrizations.weight[0].alpha
    alpha.data.uniform_()
    pruner.tick(8)
    images = torch.randn(5, 8, 4, 4)
    slow_weight, slow_alpha = weight.detach().clone().requires_grad_(), alpha.detach().clone().requires_grad_()
    model(images).square().sum().backward()

    soft = out_of_groups((slow_alpha * (slow_alpha != 0)) @ combinations_of(2, 4), weight.shape, 4)
    straight = soft + (pruner.masks[0].float() - soft).detach()
    nn.functional.conv2d(images, slow_weight * straight).square().sum().backward()
    assert 0 < pruner.masks[0].float().mean() < 1
    assert torch.allclose(alpha.grad, slow_alpha.grad, rtol=1e-4, atol=1e-3)
    assert torch.allclose(weight.grad, slow_weight.grad, rtol=1e-4, atol=1e-3)


def trained(model, pruner, steps, optimizer=None, first=0):
    """Steps on random images; the number of combinations that are not 0 after each refresh, of the first layer."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    left = []
    for step in range(first, steps):
        torch.manual_seed(step)
        pruner.tick(step)
        left.append(int(pruner._attached.masked[0].alpha.count_nonzero(1).max()))
        optimizer.zero_grad()
        model(torch.randn(8, 8)).square().mean().backward()
        pruner.before_step(optimizer)
        optimizer.step()
        pruner.after_step(optimizer)
    return left


def test_removal_follows_the_curve_and_ends_at_one_combination_for_good():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    pruner = lbc(model, schedule=Schedule("cubic", 0, "10it"))
    left = trained(model, pruner, 10)
    assert left == [6 - int(5 * (1 - (1 - step / 10) ** 3) + 1e-9) for step in range(10)]
    pruner.tick(10)
    masks = [mask.clone() for mask in pruner.masks]
    assert all((in_groups(mask, 4).sum(1) == 2).all() for mask in masks)
    trained(model, pruner, 15, first=10)
    for masked in pruner._attached.masked:
        masked.alpha.data.normal_()
    pruner.tick(15)
    assert all(torch.equal(mask, before) for mask, before in zip(pruner.masks, masks, strict=True))
    model.zero_grad()
    model(torch.randn(8, 8)).square().mean().backward()
    assert not pruner._attached.masked[0].alpha.grad.any()


def test_the_finished_model_is_plain_and_obeys_the_pattern():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    names = set(model.state_dict())
    pruner = lbc(model)
    trained(model, pruner, 12)
    used = [layer.weight.clone() for layer in pruner.layers]
    pruner.finalise()
    assert pruner.verify()
    assert set(model.state_dict()) == names
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(pruner.layers, used, strict=True))


def test_alphas_are_under_weight_decay():
    """In one step with gradients of 0 all that moves is what decays."""
    model, _, parts = one_group()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.25)
    (0 * model(X)).sum().backward()
    optimizer.step()
    assert parts[0].alpha.tolist()[0] == pytest.approx([0.25] * 6)


def test_momentum_moves_pruned_weights_too():
    model, pruner, parts = one_group()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in (0, 10):  # dense, then 03 alone
        optimizer.zero_grad()
        parts[0].alpha.data.copy_(ALPHA)
        pruner.tick(step)
        model(X).sum().backward()
        pruner.before_step(optimizer)
        optimizer.step()
        pruner.after_step(optimizer)
    assert parts.original.tolist()[0] == pytest.approx([1 - 0.29, -3 - 0.38, 2 - 0.57, 0.5 - 1.16])


@pytest.mark.parametrize("kind", ["erk", "scheme"])
def test_every_layer_has_its_own_combinations(kind, tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 16), nn.Linear(16, 32), nn.Linear(32, 64), nn.Linear(64, 4))
    (tmp_path / "s.json").write_text('{"pattern": "nm", "m": 4, "levels": {"0": 4, "1": 3, "2": 2, "3": 1, "4": 0}}')
    pruner = lbc(model, allocation=ERK() if kind == "erk" else Scheme(str(tmp_path / "s.json")))
    assert len(set(pruner.levels)) > 1
    for layer, level, masked in zip(pruner.layers, pruner.levels, pruner._attached.masked, strict=True):
        count = {0: None, 1: 4, 2: 6, 3: 4, 4: None}[level]
        shape = masked.alpha.shape if "alpha" in masked.memory else None
        assert shape == (count and (layer.weight.numel() // 4, count))
    pruner.tick(10)
    kept = [in_groups(mask, 4).sum(1).unique().tolist() for mask in pruner.masks]
    assert kept == [[level] for level in pruner.levels]
    pruner.finalise()
    assert pruner.verify()


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 8)])
def test_ranked_by_scores_the_last_one_is_the_mask_itself(n, m):
    torch.manual_seed(0)
    weight = torch.randn(6, 16, 3, 3)
    place = LayerView(weight, level=n, score_of=lambda layer: layer.weight.abs())
    path, pattern = Combinations(), NM(n, m)
    assert torch.equal(path.masks(pattern, [place], 1.0)[0], nm_mask(weight, n, m))
    last = None
    for p in (0.2, 0.5, 0.8, 0.99, 1.0):
        mask = path.masks(pattern, [place], p)[0]
        assert last is None or (mask <= last).all()
        last = mask


def test_ranked_by_scores_nothing_comes_back_where_nothing_may():
    torch.manual_seed(0)
    pruner = lbc(nn.Linear(16, 8, bias=False), estimator=Hard(), update=Update(regrow="never"))
    last = pruner.masks[0].clone()
    for step in range(1, 13):
        pruner._weights[0].data.normal_()
        pruner.tick(step)
        assert (pruner.masks[0] <= last).all()
        last = pruner.masks[0].clone()
    assert (in_groups(last, 4).sum(1) == 2).all()


def test_too_many_combinations_are_refused_before_any_is_made(tmp_path):
    model = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 16))
    says = r"n=8, m=16: 8:16 has 12,870 combinations a group, 804 numbers for each weight, and 16 are the most; use a"
    for estimator in (LearnedCombinations(), STE()):
        with pytest.raises(ValueError, match=says):
            lbc(model, NM(8, 16), estimator=estimator)
    (tmp_path / "s.json").write_text('{"pattern": "nm", "m": 16, "levels": {"0": 1, "1": 8}}')
    with pytest.raises(ValueError, match=says):
        lbc(model, NM(1, 16), Scheme(str(tmp_path / "s.json")))
    with pytest.raises(ValueError, match="8:16, which this allocation may come to, has 12,870"):
        lbc(model, NM(1, 16), Global(), STE())
    assert not hasattr(model[0], "parametrizations")
    lbc(model, NM(2, 16))  # 7.5


def test_nothing_is_cut_before_a_step_in_which_it_could_learn():
    for schedule in (Schedule("one_shot", 0, 1.0), Schedule("cubic", 0, 0)):
        with pytest.raises(ValueError, match="would keep the first combination of every group, before a step in which"):
            lbc(nn.Linear(8, 4), schedule=schedule)
        lbc(nn.Linear(8, 4), schedule=schedule, estimator=STE())
    lbc(nn.Linear(8, 4), schedule=Schedule("one_shot", "1it", 1.0))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"path": Direct()}, "estimator=candidates learns which combinations stay; use pruner/path=combinations"),
        ({"path": Direct(), "pattern": Weight(0.5)}, "use pruner/path=combinations beside pruner/pattern=nm"),
        ({"allocation": Global()}, "this allocation decides later how many stay"),
        ({"allocation": Budget("weight_error"), "estimator": STE()}, None),
        ({"allocation": Budget("random", per="filter"), "estimator": STE()}, "path=combinations needs one; use per="),
        ({"update": Update(regrow="never")}, "regrow=never, hysteresis=0: these bear on scores"),
        ({"update": Update(hysteresis=0.1)}, r"regrow=free, hysteresis=0\.1: these bear on scores"),
        ({"update": Update(hysteresis=0.1), "estimator": STE()}, None),
        ({"scope": Scope(indivisible="pad")}, "indivisible='pad': path=combinations needs whole groups"),
    ],
)
def test_what_makes_no_sense_beside_it_is_refused(overrides, message):
    axes = {"scope": EVERY_LAYER, "pattern": NM(2, 4), "criterion": L1(), "allocation": Uniform(),
            "path": Combinations(), "update": Update(), "estimator": LearnedCombinations()}  # fmt: skip
    if message is None:
        Method(**axes | overrides)
    else:
        with pytest.raises(ValueError, match=message):
            Method(**axes | overrides)
