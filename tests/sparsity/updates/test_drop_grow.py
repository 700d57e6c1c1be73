"""Exchanges by hand: what is dropped, what is grown in its place, and when."""

import pytest
import torch
from conftest import TINY, composed
from torch import nn
from torch.nn import functional as F

from midstate.engine.loop import train
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.sparsity import (
    ERK,
    L1,
    NM,
    STE,
    Blocks,
    Combinations,
    DenseGradient,
    Density,
    Direct,
    DropGrow,
    Filter,
    Global,
    Hard,
    LearnedCombinations,
    Method,
    Pruner,
    Row,
    Schedule,
    Scope,
    StepN,
    Uniform,
    Update,
    Weight,
)
from midstate.sparsity.schedules import Window
from midstate.sparsity.updates.drop_grow import exchange_scores

EVERY_LAYER = Scope(skip_first=False, skip_classifier=False)
#                        stays  -    drops  -          -    stays  -   drops
WEIGHT = torch.tensor([[0.9, 0.05, 0.3, 0.01], [0.02, -0.5, 0.03, 0.2]])
GRADIENT = torch.tensor([[1.0, -5.0, 2.0, 3.0], [-8.0, 1.0, 7.0, 0.5]])
RETURN = torch.tensor([[1.0, -5.0, 9.0, 3.0], [-8.0, 1.0, 7.0, 0.5]])  # of what is dropped, one is the largest
IN_USE = [[1, 0, 1, 0], [0, 1, 0, 1]]


def pruned_linear(pattern, update=None, estimator=None, total_steps=4, path=None):
    """A layer of 2 x 4, and its weight; half of it is in use once the masks are made."""
    model = nn.Linear(4, 2, bias=False)
    model.weight.data.copy_(WEIGHT)
    update = update or DropGrow("2it", drop_fraction=1.0, initial="criterion")
    method = Method(EVERY_LAYER, pattern, L1(), Uniform(), path or Direct(), update, estimator or DenseGradient())
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), steps_per_epoch=2, total_steps=total_steps, seed=3)
    return model, pruner, model.parametrizations.weight.original


def step_with(gradient, pruner, weight, optimizer):
    weight.grad = gradient.clone()
    pruner.before_step(optimizer)
    optimizer.step()
    pruner.after_step(optimizer)


@pytest.mark.parametrize(
    ("pattern", "gradient", "after"),
    [
        # Of 4 in use the smaller two go, 0.3 and 0.2; among the six not kept |g| is 5 2 3 | 8 7 0.5.
        (Weight(0.5), GRADIENT, [[1, 0, 0, 0], [1, 1, 1, 0]]),
        # Each row lost one: the largest of 5 2 3 and of 8 7 0.5.
        (Row(0.5), GRADIENT, [[1, 1, 0, 0], [1, 1, 0, 0]]),
        # Each group of two that lost one grows one: of 2 3 and of 7 0.5; the other groups are as they were.
        (NM(1, 2), GRADIENT, [[1, 0, 0, 1], [0, 1, 1, 0]]),
        # What was dropped comes back where its gradient is the largest: 0.3 with 9.
        (Weight(0.5), RETURN, [[1, 0, 1, 0], [1, 1, 0, 0]]),
    ],
    ids=["weight", "row", "nm", "dropped and grown again"],
)  # fmt: skip
def test_exchanges_by_hand(pattern, gradient, after):
    """At half the time until the end the whole of the share, 1, has fallen to a half: 2 of 4 are exchanged."""
    _, pruner, weight = pruned_linear(pattern)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    pruner.tick(0)
    assert pruner.masks[0].int().tolist() == IN_USE
    for step in range(2):
        pruner.tick(step)
        step_with(gradient, pruner, weight, optimizer)
    assert torch.equal(weight.grad, gradient * torch.tensor(IN_USE))
    assert pruner.masks[0].int().tolist() == IN_USE
    pruner.tick(2)
    assert pruner.masks[0].int().tolist() == after
    kept = torch.tensor(IN_USE) * torch.tensor(after)
    assert torch.equal(weight.detach(), WEIGHT * kept)  # and what is grown is zero


def test_grown_weights_begin_without_momentum_and_those_grown_again_keep_theirs():
    _, pruner, weight = pruned_linear(Weight(0.5))
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9, weight_decay=0.1)
    for step in range(2):
        pruner.tick(step)
        step_with(RETURN, pruner, weight, optimizer)
    before, momentum = weight.detach().clone(), optimizer.state[weight]["momentum_buffer"]
    moved = momentum.clone()
    pruner.tick(2)
    assert pruner.masks[0].int().tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]
    assert (weight[1, 0], momentum[1, 0]) == (0, 0)  # grown, by the second largest gradient
    assert (weight[0, 2], momentum[0, 2]) == (before[0, 2], moved[0, 2])
    assert moved[0, 2] > 9
    step_with(RETURN, pruner, weight, optimizer)
    assert weight[1, 0].item() == pytest.approx(-0.01 * -8.0)  # one step of its own gradient alone
    assert (weight[1, 3], momentum[1, 3]) == (0, 0)  # dropped


def test_the_share_falls_as_half_a_cosine():
    update = DropGrow(until=0.5)
    ticks = update.resolve(Window("one_shot", 0, 0), 10, 40)
    shares = [update.exchanged(ticks.elapsed(step)) for step in (0, 5, 10, 20)]
    # 0.15 * (1 + cos) at 0, a quarter, a half and the whole of pi
    assert shares == pytest.approx([0.3, 0.15 * (1 + 0.5**0.5), 0.15, 0.0])
    late = update.resolve(Window("one_shot", 10, 10), 10, 40)  # time counts from the window's start
    assert late.elapsed(15) == 0.5


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8)
    )


def wander(pruner, model, num_steps):
    """Masks after each tick of a training on noise, copies."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    torch.manual_seed(1)
    for step in range(num_steps):
        pruner.tick(step)
        yield [mask.clone() for mask in pruner.masks]
        loss = F.cross_entropy(model(torch.randn(16, 4, 6, 6)), torch.randint(0, 8, (16,)))
        optimizer.zero_grad()
        loss.backward()
        pruner.before_step(optimizer)
        optimizer.step()
        pruner.after_step(optimizer)


@pytest.mark.parametrize(
    ("update", "estimator"),
    [(DropGrow("3it", 0.75), DenseGradient()), (DropGrow("3it", 0.75, grow="random"), Hard())],
    ids=["gradient", "random"],
)
def test_each_layer_keeps_the_count_of_erk_and_freezes_after_until(update, estimator):
    model = network()
    method = Method(EVERY_LAYER, Weight(0.9), L1(), ERK(), Direct(), update, estimator)
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 6, 24, classifier="5")
    walked = list(wander(pruner, model, 24))
    # Weights 1152, 4608 and 512: the budget is a tenth of each, 115 + 460 + 51; sums of their dimensions are 42, 54
    # and 72, of 168: 156.5, 201.2 and 268.3, and the one weight that rounding left goes to the first.
    assert {tuple(int(mask.sum()) for mask in masks) for masks in walked} == {(157, 201, 268)}
    changed = [s for s in range(1, 24) if any(not a.equal(b) for a, b in zip(walked[s], walked[s - 1], strict=True))]
    assert changed == [3, 6, 9, 12, 15]  # at 18 the share is 0
    exchanged = [int((walked[s][1] & ~walked[s - 1][1]).sum()) for s in changed]
    assert all(count > 0 for count in exchanged)
    # At most floor(share * 201) change place: 0.3, and half a cosine down at 3/18, 6/18 and so on.
    assert all(count <= most for count, most in zip(exchanged, [56, 45, 30, 15, 4], strict=True))
    pruner.finalise()
    assert pruner.verify()


def test_first_masks_are_random_and_a_function_of_the_seed():
    def first(seed, initial="random"):
        model = network()
        update = DropGrow("3it", initial=initial)
        method = Method(EVERY_LAYER, Weight(0.9), L1(), ERK(), Direct(), update, DenseGradient())
        pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 6, 24, seed, "5")
        weights = [layer.weight.detach().clone() for layer in pruner.layers]
        pruner.tick(0)
        return pruner.masks, [weight[mask].abs().min() for weight, mask in zip(weights, pruner.masks, strict=True)]

    masks, least = first(0)
    assert all(map(torch.equal, masks, first(0)[0]))
    assert not any(map(torch.equal, masks, first(1)[0]))
    assert all(random < chosen for random, chosen in zip(least, first(0, "criterion")[1], strict=True))


def test_random_growth_is_a_function_of_the_step_and_computing_masks_changes_nothing():
    model = network()
    update = DropGrow("3it", grow="random")
    method = Method(EVERY_LAYER, Weight(0.9), L1(), ERK(), Direct(), update, Hard())
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 6, 24, classifier="5")
    *_, in_force = wander(pruner, model, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    three, again, four = (pruner.masks_at(1.0, step) for step in (3, 3, 4))
    assert all(map(torch.equal, three, again))
    assert not any(map(torch.equal, three, four))
    assert not any(map(torch.equal, three, in_force))
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("pattern", "path"),
    [(Weight(0.9), Density()), (NM(1, 4), StepN()), (NM(1, 4), Blocks("random", rerank="sticky"))],
)
def test_gradual_paths_prune_as_they_do_and_let_weights_come_back(pattern, path):
    """As GraNet: what the path takes goes by the criterion, then weights change place."""
    model = network()
    method = Method(Scope(), pattern, L1(), Uniform(), path, DropGrow("1it", initial="criterion"), DenseGradient())
    pruner = Pruner(model, method, Schedule("linear", 0, "12it"), 6, 24, classifier="5")
    last, revived = None, 0
    for step, (mask,) in enumerate(wander(pruner, model, 24)):
        p = min(1.0, step / 12)
        groups = mask.unflatten(1, (-1, 4)).sum(2) if pattern.name == "nm" else None
        if isinstance(path, Density):
            assert int(mask.sum()) == max(1, int((1 - 0.9 * p) * 4608 + 1e-9))
        elif isinstance(path, StepN):
            assert groups.eq(4 - int(3 * p + 1e-9)).all()
        else:
            assert groups.eq(4).sum() == int((1 - p) * 1152 + 1e-9)
            assert set(groups.unique().tolist()) <= {1, 4}
        revived += 0 if last is None else int((mask & ~last).sum())
        last = mask
        probed = pruner.masks_at(0.25, step)[0]  # a probe may ask for a state that has gone by
        assert probed.float().mean() >= mask.float().mean() - 1e-6 or p < 0.25
    assert revived > 20


def test_blocks_come_in_the_order_that_they_have_without_exchanges():
    dense = []
    for update in (DropGrow("1it", initial="criterion"), Update(regrow="never")):
        model = network()
        path = Blocks("random", rerank="sticky")
        method = Method(Scope(), NM(1, 4), L1(), Uniform(), path, update, DenseGradient())
        pruner = Pruner(model, method, Schedule("linear", 0, "12it"), 6, 24, classifier="5")
        dense.append([mask.unflatten(1, (-1, 4)).sum(2) == 4 for (mask,) in wander(pruner, model, 13)])
    assert all(map(torch.equal, *dense))


def test_what_is_not_finite_is_not_remembered():
    """A step that fp16's scaler leaves out has such gradients."""
    _, pruner, weight = pruned_linear(Weight(0.5))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    pruner.tick(0)
    step_with(GRADIENT, pruner, weight, optimizer)
    weight.grad = torch.full_like(WEIGHT, torch.inf).index_fill(1, torch.tensor([0]), torch.nan)
    pruner.before_step(optimizer)
    pruner.tick(2)
    assert pruner.masks[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]  # by the gradient before


def test_only_what_is_in_use_stays_and_ties_keep_the_lower_index():
    in_use = torch.tensor([[True, True, True, False, False]])
    score = torch.tensor([[1.0, 1.0, 1.0, 5.0, 5.0]])
    scores = exchange_scores(in_use, score, torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]), 0.7)
    assert scores.tolist() == [[torch.inf, 1.0, 2.0, 3.0, 4.0]]  # floor(0.7 * 3) go


def test_runs_exchange_at_ticks_alone_and_not_at_the_ends_of_epochs():
    session = build_session(
        Plan.of(composed(*TINY, "pruner=rigl", "pruner.every=5it", "pruner.until=0.6", "pruner.sparsity=0.8"))
    )
    seen, ends = {0: [mask.clone() for mask in session.pruner.masks]}, []

    def after_step():
        seen[session.step] = [mask.clone() for mask in session.pruner.masks]
        return False

    def end_of_epoch(row):
        ends.append(all(map(torch.equal, session.pruner.masks, seen[session.step])))

    assert train(session, lambda: None, end_of_epoch, after_step)
    changed = [step for step in range(1, 25) if not all(map(torch.equal, seen[step], seen[step - 1]))]
    assert changed == [1, 6, 11]  # before the forward passes of steps 0, 5 and 10; 14 is the last at which masks change
    assert ends == [True] * 4
    assert [row["revived"] > 0 for row in session.rows] == [False, True, False, False]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((Filter(0.5), Uniform(), Direct(), DropGrow(), DenseGradient()), "a grown filter begins at zero, where"),
        ((Weight(0.5), Global(refresh="tick"), Direct(), DropGrow(), DenseGradient()), "use pruner.refresh=once"),
        ((NM(2, 4), Uniform(), Blocks(), DropGrow(), DenseGradient()), "use pruner.rerank=sticky"),
        ((Weight(0.5), Uniform(), Direct(), DropGrow(), Hard()), "grow='gradient': needs the gradient of pruned"),
        ((Weight(0.5), Uniform(), Direct(), DropGrow(grow="random"), STE()), "under this estimator pruned ones train"),
        ((NM(2, 4), Uniform(), Combinations(), DropGrow(), DenseGradient()), "path=combinations ranks sums of weights"),
        ((NM(2, 4), Uniform(), Combinations(), DropGrow(), LearnedCombinations()), "path=combinations ranks sums of"),
    ],
)  # fmt: skip
def test_products_without_meaning_are_refused_with_the_reason(axes, message):
    pattern, allocation, path, update, estimator = axes
    with pytest.raises(ValueError, match=message):
        Method(Scope(), pattern, L1(), allocation, path, update, estimator)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_fraction": 1.5}, "drop_fraction=1.5: must be a number from 0 to 1"),
        ({"grow": "gradients"}, "grow='gradients': must be one of gradient, random; did you mean gradient"),
        ({"initial": "zero"}, "initial='zero': must be one of random, criterion"),
        ({"every": "100"}, "every='100': must be"),
    ],
)
def test_bad_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DropGrow(**settings)


@pytest.mark.parametrize(("every", "warned"), [("17it", False), ("18it", True), ("100it", True)])
def test_a_run_too_short_for_any_exchange_is_warned_of(every, warned, caplog):
    """TINY has 24 steps, and `until` is three quarters of them: 18."""
    build_session(Plan.of(composed(*TINY, "pruner=set", f"pruner.every={every}")))
    assert ("no weight will change place" in caplog.text) is warned
