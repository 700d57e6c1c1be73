"""DominoSearch on groups small enough to follow by hand."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Generator, nn

from midstate.sparsity import (
    L1,
    NM,
    SRSTE,
    Direct,
    Domino,
    LayerView,
    Method,
    Pruner,
    Schedule,
    Scope,
    Search,
    StepN,
    Uniform,
    Update,
    Weight,
)
from midstate.sparsity.allocations.domino import press

PATTERN = NM(1, 4)
# Means of the smaller halves: 1.5 and 1; above them 4, 3 and 2, and nothing.
WEIGHT = torch.tensor([[4.0, -3.0, 2.0, 1.0, 1.0, -1.0, 1.0, 1.0]])


def layer(weight, name="layer", uses=1):
    return LayerView(weight, name=name, macs=uses)


def walk(level, walked=None, thresholds=((1.5, 1.0),)):
    return {"thresholds": torch.tensor(thresholds), "walked": walked or level, "level": level}


def test_thresholds_are_the_means_of_the_smaller_halves():
    (begun,) = Domino().begin(PATTERN, [layer(WEIGHT)])
    assert begun["thresholds"].tolist() == [[1.5, 1.0]]
    assert (begun["walked"], begun["level"]) == (4, 4)


def test_thresholds_of_a_partial_group_count_what_is_missing_as_zero():
    (begun,) = Domino().begin(PATTERN, [layer(WEIGHT[:, :6])])
    assert begun["thresholds"].tolist() == [[1.5, 0.0]]


def test_kernel_positions_have_groups_of_their_own():
    weight = torch.arange(1.0, 9.0).view(1, 4, 2, 1)  # positions hold 1, 3, 5, 7 and 2, 4, 6, 8
    (begun,) = Domino().begin(PATTERN, [layer(weight)])
    assert begun["thresholds"].flatten().tolist() == [2.0, 3.0]


def test_a_layer_comes_down_where_enough_groups_are_below():
    """Above the thresholds lie 3 and 0 weights: fewer than 4 in both groups, fewer than 3 in one."""
    domino, layers = Domino(ready=0.75), [layer(WEIGHT)]
    first = domino.advance(PATTERN, layers, [walk(4)], 0.1)
    assert first[0]["walked"] == 3
    assert first[0]["level"] == 4  # three is no power of two: not in force
    assert domino.advance(PATTERN, layers, first, 0.2)[0]["walked"] == 3
    easier = Domino(ready=0.5).advance(PATTERN, layers, first, 0.2)
    assert (easier[0]["walked"], easier[0]["level"]) == (2, 2)


def test_levels_that_may_be_in_force_can_be_chosen():
    domino = Domino(ready=0.5, levels=[1, 3])
    assert domino.advance(PATTERN, [layer(WEIGHT)], [walk(4)], 0.1)[0]["level"] == 3


def test_the_readiest_layer_comes_down_first_and_the_budget_ends_it():
    """Uniform 2:4 is 8 of 16 weights; one layer at 4 and one at 1 are 10, and both at 1 are 4."""
    pattern, ready, less = NM(2, 4), layer(torch.full((1, 8), 0.5)), layer(WEIGHT)
    down = Domino(ready=0.5).advance(pattern, [less, ready], [walk(4, 3), walk(4, 3)], 0.1)
    assert [each["level"] for each in down] == [2, 2]  # twelve are left after the first, eight after the second
    down = Domino(ready=0.5).advance(pattern, [less, ready], [walk(2, 2), walk(2, 2)], 0.2)
    assert [each["level"] for each in down] == [2, 2]  # met: nothing moves


def test_within_one_decision_no_more_comes_down_than_the_budget_asks():
    pattern, ready, less = NM(3, 4), layer(torch.full((1, 8), 0.5)), layer(WEIGHT)
    down = Domino(ready=0.5).advance(pattern, [less, ready], [walk(4, 3), walk(4, 3)], 0.1)
    assert [each["level"] for each in down] == [4, 2]  # twelve of sixteen


def test_at_the_windows_end_what_is_missing_is_forced_where_least_is(caplog):
    pattern, far, near = NM(2, 4), layer(WEIGHT), layer(WEIGHT)
    big = [walk(4, 4, ((0.1, 0.1),)), walk(4, 3, ((0.1, 0.1),))]  # every weight lies above: nothing is ready
    assert [each["level"] for each in Domino().advance(pattern, [far, near], big, 0.9)] == [4, 4]
    assert not caplog.text
    assert [each["level"] for each in Domino().advance(pattern, [far, near], big, 1.0)] == [2, 2]
    assert "2 steps down were forced" in caplog.text
    assert [each["level"] for each in Domino().advance(NM(3, 4), [far, near], big, 1.0)] == [4, 2]


def test_of_equally_near_layers_none_is_forced_down_while_others_stay_where_they_were():
    """Under uniform 2:8, which has a quarter of 32 weights: halving both twice meets it exactly."""
    few, many = torch.ones(2, 8), torch.arange(16.0).view(2, 8) + 1
    walks = [walk(8, thresholds=((5.0,), (5.0,))), walk(8, thresholds=((0.1,), (0.1,)))]  # the first is readier
    down = Domino(levels=[1, 2, 4]).advance(NM(2, 8), [layer(many), layer(few)], walks, 1.0)
    assert [each["level"] for each in down] == [2, 2]


def test_multiply_accumulates_are_a_budget_of_their_own():
    """Uniform 2:4 costs 8 * 10 / 2 + 8 / 2 = 44 of 88; in weights it keeps 8 of 16."""
    dear, cheap = layer(WEIGHT, "dear", 10), layer(torch.full((1, 8), 0.5), "cheap", 1)
    big = ((0.1, 0.1),)
    walks = [walk(4, 3, big), walk(4, 3, big)]
    by_macs = Domino(budget="macs").advance(NM(2, 4), [dear, cheap], walks, 1.0)
    assert [each["level"] for each in by_macs] == [2, 2]
    assert not Domino(budget="macs").met(NM(2, 4), [dear, cheap], [walk(2), walk(4)])  # 48
    assert Domino(budget="macs").met(NM(2, 4), [dear, cheap], [walk(1), walk(4)])  # 28
    assert not Domino().met(NM(2, 4), [dear, cheap], [walk(1), walk(4)])  # 10 of 8 weights


def test_the_penalty_is_strong_where_erk_would_keep_little_and_much_is_computed():
    """ERK densities of 4x8 and 8x16 are in proportion to 12/32 and 24/128; half of 160 weights: 0.8, 0.425."""
    small, large = layer(torch.ones(4, 8), "small", 4), layer(torch.ones(8, 16), "large", 1)
    scale = 80 / (12 + 24)
    far = [1 - 12 / 32 * scale, 1 - 24 / 128 * scale]
    expected = [0.1 * (0.5 * far[0] / far[1] + 0.5), 0.1 * (0.5 + 0.5)]  # both cost 128 multiply-accumulates
    walks = [walk(4), walk(4)]
    found = Domino().strengths(NM(2, 4), [small, large], walks, 0.0)
    assert found == pytest.approx(expected)
    only_macs = Domino(erk_share=0.0).strengths(NM(2, 4), [small, large], [walk(4), walk(2)], 0.0)
    assert only_macs == pytest.approx([0.1, 0.05])
    only_erk = Domino(erk_share=1.0).strengths(NM(2, 4), [small, large], [walk(2), walk(4)], 0.0)
    assert only_erk == pytest.approx([0.0, 0.1])  # half is less than what ERK gives the small one


@pytest.mark.parametrize(
    ("progress", "doublings"), [(0, 0), (0.29, 0), (0.3, 1), (0.39, 1), (0.4, 2), (0.5, 3), (0.8, 6), (1.0, 6)]
)
def test_the_penalty_doubles_at_the_published_shares_of_the_search(progress, doublings):
    found = Domino().strengths(NM(2, 4), [layer(WEIGHT)], [walk(4)], progress)
    assert found == pytest.approx([0.1 * 2**doublings])


def test_the_penalty_is_on_the_weights_in_use():
    weight = nn.Parameter(torch.tensor([[4.0, -3.0, 2.0, 1.0]]))
    weight.grad = torch.ones(1, 4)
    press(weight, torch.tensor([[True, True, False, False]]), 0.5)
    assert weight.grad.tolist() == [[3.0, -0.5, 1.0, 1.0]]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 10))


def attached(model, n=1, schedule=None, **settings):
    domino = Domino(**{"decide_every": 1, "press_every": 2, "strength": 50.0, **settings})
    method = Method(Scope(), NM(n, 16), L1(), domino, Search(), Update(), SRSTE())
    return Pruner(model, method, schedule or Schedule("linear", 0.1, 0.6), 10, 100, seed=7, classifier="4")


def trained(model, pruner, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.randn(8, 3, 5, 5, generator=Generator().manual_seed(0))
    rows = []
    for step in steps:
        pruner.tick(step)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        pruner.before_step(optimizer)
        optimizer.step()
        pruner.after_step(optimizer)
        rows.append((list(pruner.levels or []), sum(pruner.kept())))
    return rows


def test_a_search_walks_down_monotonously_and_meets_its_budget():
    model = network()
    pruner = attached(model, n=4)
    rows = trained(model, pruner, range(100))
    assert rows[9] == ([], 2.0)  # dense before the window
    levels = [row[0] for row in rows[10:]]
    assert levels[0] == [16, 16]
    for before, after in pairwise(levels):
        assert all(a <= b and a in (1, 2, 4, 8, 16) for b, a in zip(before, after, strict=True))
    kept = [16 * 32 * 9, 32 * 16]
    assert sum(share * size for share, size in zip(pruner.targets(), kept, strict=True)) <= sum(kept) / 4
    pruner.refresh(100)
    assert pruner.kept() == pytest.approx(pruner.targets())
    pruner.finalise()
    assert pruner.verify()


@pytest.mark.parametrize("after_an_evaluation", [False, True])
def test_a_search_goes_on_from_its_state_to_the_same_bits(after_an_evaluation):
    whole, halves = network(), network()
    pruner = attached(whole)
    trained(whole, pruner, range(60))
    first = attached(halves)
    trained(halves, first, range(20))
    if after_an_evaluation:  # it searches for step 20, which has a penalty
        first.refresh(20)
    state, weights = copy.deepcopy(first.state_dict()), copy.deepcopy(halves.state_dict())
    again = network()
    second = attached(again)
    again.load_state_dict(weights)
    second.load_state_dict(state)
    trained(again, second, range(20, 60))
    assert second.levels == pruner.levels
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters(), strict=True))


def test_evaluations_do_not_press():
    model = network()
    pruner = attached(model)
    trained(model, pruner, range(11))
    pruner.refresh(12)
    before = model[1].parametrizations.weight.original.grad = torch.zeros_like(model[1].weight)
    pruner.before_step(torch.optim.SGD(model.parameters(), lr=0.01))
    assert before.any()  # step 12 is one with a penalty
    pruner.before_step(torch.optim.SGD(model.parameters(), lr=0.01))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": Direct()}, "belong together"),
        ({"path": StepN()}, "belong together"),
        ({"allocation": Uniform()}, "belong together"),
        ({"pattern": Weight(0.5)}, "N:M"),
        ({"update": Update("10it")}, "every='10it'"),
        ({"allocation": Domino(levels=[4, 8])}, r"all exceed the budget, uniform 1:16"),
        ({"allocation": Domino(levels=[1, 32])}, r"levels=\[1, 32\]"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    axes = {
        "scope": Scope(),
        "pattern": NM(1, 16),
        "criterion": L1(),
        "allocation": Domino(),
        "path": Search(),
        "update": Update(),
        "estimator": SRSTE(),
    }
    with pytest.raises(ValueError, match=message):
        Method(**{**axes, **change})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ready": 1.5}, "ready=1.5"),
        ({"decide_every": 0}, "decide_every=0"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"levels": "all"}, "levels='all'"),
        ({"budget": "both"}, "budget='both'"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Domino(**settings)


@pytest.mark.parametrize("schedule", [Schedule("one_shot", 0.5, 0.5), Schedule("linear", 0.5, 0.5)])
def test_a_search_needs_time(schedule):
    with pytest.raises(ValueError, match="needs time"):
        attached(network(), schedule=schedule)
