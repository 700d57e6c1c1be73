"""Progressive Gradient Flow's two decays by hand: frames of N:M, and factors that fade."""

import pytest
import torch
from torch import nn

from midstate.sparsity import (
    L1,
    L2,
    NM,
    SRSTE,
    STE,
    Fade,
    Filter,
    Frames,
    Hard,
    LayerView,
    Method,
    MultiAxis,
    Pruner,
    Schedule,
    Scheme,
    Scope,
    Soft,
    Uniform,
    Update,
    Weight,
    multi_axis_mask,
    nm_mask,
)

EVERY_LAYER = Scope(skip_first=False, skip_classifier=False)
WEIGHT = torch.tensor([[1.0, -3.0, 2.0, 0.5]])
X = torch.tensor([[10.0, 20.0, 30.0, 40.0]])


def weight_of(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def magnitude(layer):
    return layer.weight.abs()


def walk(path, pattern, weight, p, level=None):
    place = LayerView(weight, level=pattern.n if level is None else level, score_of=magnitude)
    return path.masks(pattern, [place], p)[0]


def attached(model, path, pattern=None, estimator=None, update=None, allocation=None):
    method = Method(
        EVERY_LAYER, pattern or NM(2, 4), L1(), allocation or Uniform(), path, update or Update(), estimator or STE()
    )
    return Pruner(model, method, Schedule("linear", 0, "10it"), steps_per_epoch=10, total_steps=20)


@pytest.mark.parametrize(
    ("n", "m", "states"),
    [
        (1, 16, [16, 15, 8, 4, 2, 1]),
        (2, 4, [4, 3, 2]),
        (1, 4, [4, 3, 2, 1]),
        (3, 8, [8, 7, 4, 3]),
        (3, 4, [4, 3]),
        (1, 2, [2, 1]),
        (4, 4, [4]),
        (1, 6, [6, 5, 3, 1]),
    ],
)
def test_sparsify_goes_to_m_minus_1_then_halves(n, m, states):
    weight, path, pattern = weight_of(3, 4 * m), Frames("sparsify"), NM(n, m)
    jumps = len(states) - 1
    for k, state in enumerate(states):
        for p in {k / max(1, jumps), min(1, (k + 0.99) / max(1, jumps))} if k < jumps else {1.0}:
            assert torch.equal(walk(path, pattern, weight, p), nm_mask(weight, state, m))
            assert path.describe(pattern, pattern.title, p) == f"{state}:{m}"


@pytest.mark.parametrize(
    ("kind", "frames"),
    [
        ("fine", [(8, 8), (16, 32), (8, 16), (4, 8), (2, 4)]),
        ("densify", [(8, 8), (2, 32), (2, 16), (2, 8), (2, 4)]),
    ],
)
def test_groups_shrink_frame_by_frame(kind, frames):
    weight, path, pattern = weight_of(3, 64, 2, 2), Frames(kind), NM(2, 4)
    for k, (n, m) in enumerate(frames):
        for p in (k / 4, (k + 0.99) / 4) if k < 4 else (1.0,):
            assert torch.equal(walk(path, pattern, weight, p), nm_mask(weight, n, m))
    assert [path.describe(pattern, "2:4", k / 4) for k in range(5)] == ["4:4", *(f"{n}:{m}" for n, m in frames[1:])]


def test_channels_that_a_group_does_not_divide_have_the_largest_that_does():
    """Of 24 channels in fours, groups of 8, 4, 2 and 1 times four become 24, 12, 8 and 4; of 20 20, 4, 4, 4."""
    for channels, sizes in ((24, (24, 12, 8, 4)), (20, (20, 4, 4, 4)), (4, (4, 4, 4, 4))):
        weight = weight_of(3, channels)
        for frame, size in enumerate(sizes, start=1):
            fine, densify = (walk(Frames(kind), NM(1, 4), weight, frame / 4) for kind in ("fine", "densify"))
            assert torch.equal(fine, nm_mask(weight, size // 4, size))
            assert torch.equal(densify, nm_mask(weight, 1, size))
    partial = walk(Frames("fine"), NM(2, 4), weight_of(3, 10), 0.25)  # indivisible=pad: the last two are a group
    assert partial.view(3, 10)[:, 8:].sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", ["sparsify", "fine", "densify"])
def test_every_layer_walks_to_its_own_n_and_dense_ones_stay_dense(kind, tmp_path):
    (tmp_path / "s.json").write_text('{"pattern": "nm", "m": 4, "levels": {"0": 4, "1": 3, "2": [1, 2, 4, 0]}}')
    model = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 8), nn.Linear(8, 4))
    pruner = attached(model, Frames(kind), NM(1, 4), allocation=Scheme(str(tmp_path / "s.json")))
    for step in range(11):
        pruner.tick(step)
        assert pruner.masks[0].all()
        assert pruner.masks[2][2].all()
    assert [mask.view(-1, 4).sum(1).unique().tolist() for mask in pruner.masks[:2]] == [[4], [3]]
    assert pruner.masks[2].view(4, 2, 4).sum(2).tolist() == [[1, 1], [2, 2], [4, 4], [0, 0]]
    pruner.finalise()
    assert pruner.verify()


def test_weights_come_back_while_frames_densify_and_may_not_be_forbidden_to():
    model = nn.Linear(64, 8)
    pruner = attached(model, Frames("densify"))
    shares = []
    for step in (0, 3, 5, 8, 10):
        pruner.tick(step)
        shares += pruner.kept()
    assert shares == [1.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    for kind in ("fine", "densify"):
        with pytest.raises(ValueError, match=f"regrow=never: frames={kind} brings weights back"):
            attached(nn.Linear(64, 8), Frames(kind), update=Update(regrow="never"))
    attached(nn.Linear(64, 8), Frames("sparsify"), update=Update(regrow="never"))
    with pytest.raises(ValueError, match="frames='halves': must be one of sparsify, fine, densify"):
        Frames("halves")
    with pytest.raises(ValueError, match="path=frames changes the N and M of N:M, and pattern=weight has none"):
        attached(nn.Linear(64, 8), Frames(), Weight(0.5))


def linear(estimator):
    model = nn.Linear(4, 1, bias=False)
    model.weight.data.copy_(WEIGHT)
    return model, attached(model, Fade(), estimator=estimator)


def test_what_fades_counts_less_and_less_and_is_in_use_until_the_end():
    model, pruner = linear(STE())
    for step, factor in ((0, 1.0), (3, 0.7), (9, 0.1)):
        pruner.tick(step)
        assert model(X).item() == pytest.approx(-60 + 60 + factor * (10 + 20))
        assert pruner.kept() == [1.0]
        model.zero_grad()
        model(X).sum().backward()
        assert torch.equal(model.parametrizations.weight.original.grad, X)  # straight through
    pruner.tick(10)
    assert pruner.masks[0].tolist() == [[False, True, True, False]]
    assert model(X).item() == 0
    pruner.finalise()
    assert model.weight.tolist() == [[0.0, -3.0, 2.0, 0.0]]
    assert pruner.verify()


def test_which_weights_fade_is_asked_at_every_refresh():
    model, pruner = linear(STE())
    pruner.tick(3)
    model.parametrizations.weight.original.data.copy_(torch.tensor([[5.0, -3.0, 2.0, 0.5]]))
    pruner.tick(4)
    assert model.weight.tolist()[0] == pytest.approx([5.0, -3.0, 2.0 * 0.6, 0.5 * 0.6])


def test_under_hard_the_gradient_fades_too_and_under_sr_ste_decay_begins_at_the_end():
    for estimator, at_half, at_end in (
        (Hard(), [5.0, 20.0, 30.0, 20.0], [0.0, 20.0, 30.0, 0.0]),
        (SRSTE(0.1), [10.0, 20.0, 30.0, 40.0], [10.1, 20.0, 30.0, 40.05]),
    ):
        model, pruner = linear(estimator)
        for step, gradient in ((5, at_half), (10, at_end)):
            pruner.tick(step)
            model.zero_grad()
            model(X).sum().backward()
            pruner.before_step(None)
            assert model.parametrizations.weight.original.grad.tolist()[0] == pytest.approx(gradient)


def test_factors_of_maxq_fade_as_well():
    weight = 0.05 * weight_of(4, 8)
    model = nn.Linear(8, 4, bias=False)
    model.weight.data.copy_(weight)
    pruner = attached(model, Fade(), estimator=MultiAxis())
    soft = multi_axis_mask(weight, 2, 4, p=0.0)  # 1 + s everywhere
    pruner.tick(4)
    assert torch.allclose(model.weight, weight * soft * torch.where(nm_mask(weight, 2, 4), 1.0, 0.6))
    pruner.tick(10)
    assert torch.allclose(model.weight, weight * multi_axis_mask(weight, 2, 4))


def test_filters_fade_whole():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Flatten(), nn.Linear(4, 2))
    weight = model[0].weight.detach().clone()
    method = Method(Scope(skip_first=False), Filter(0.5), L2(), Uniform(), Fade(), Update(), STE())
    pruner = Pruner(model, method, Schedule("linear", 0, "10it"), 10, 20, classifier="2")
    pruner.tick(5)
    factors = (model[0].weight / weight).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors))
    assert sorted(factors[:, 0].tolist()) == pytest.approx([0.5, 0.5, 1.0, 1.0])


def test_filters_of_one_layer_may_fade_to_levels_of_their_own(tmp_path):
    (tmp_path / "s.json").write_text('{"pattern": "nm", "m": 4, "levels": {"0": [1, 2, 4, 0]}}')
    model = nn.Sequential(nn.Linear(8, 4))
    weight = model[0].weight.detach().clone()
    pruner = attached(model, Fade(), NM(2, 4), allocation=Scheme(str(tmp_path / "s.json")))
    pruner.tick(4)
    faded = (model[0].weight / weight).view(4, 2, 4)
    assert (faded < 0.9).sum(2).tolist() == [[3, 3], [2, 2], [0, 0], [4, 4]]
    pruner.tick(10)
    pruner.finalise()
    assert pruner.verify()


def test_what_may_not_regrow_fades_freely_and_stays_pruned_from_the_end_on():
    model, pruner = linear(STE())
    model = nn.Linear(64, 8, bias=False)
    pruner = attached(model, Fade(), update=Update(regrow="never", hysteresis=0.5))
    weight = model.parametrizations.weight.original
    for step in range(11):
        weight.data.normal_()
        pruner.tick(step)
    last = pruner.masks[0].clone()
    assert torch.equal(last, nm_mask(weight, 2, 4))
    weight.data.normal_()
    pruner.tick(11)
    assert torch.equal(pruner.masks[0], last)


def test_masks_that_are_tried_leave_the_factors_as_they_were():
    model, pruner = linear(STE())
    pruner.tick(4)
    used = model.weight.detach().clone()
    with pruner.trial():
        for progress, sum_of_used in ((0.8, -60 + 60 + 0.2 * 30), (1.0, 0.0), (0.0, 30.0)):
            pruner.set_masks(pruner.masks_at(progress, 4))
            assert model(X).item() == pytest.approx(sum_of_used)
    assert torch.equal(model.weight, used)


def test_fading_is_refused_where_it_is_not_seen():
    for estimator, update, message in (
        (Soft(), Update(), "path=fade: training under estimator=soft never sees what fades"),
        (STE(), Update(forced_swaps=0.1), r"forced_swaps=0\.1: exchanges pruned units, and path=fade prunes none"),
    ):
        with pytest.raises(ValueError, match=message):
            Method(EVERY_LAYER, Weight(0.5), L1(), Uniform(), Fade(), update, estimator)
