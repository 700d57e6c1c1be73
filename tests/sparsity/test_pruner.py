import copy

import pytest
import torch
from torch import nn

from midstate.sparsity import (
    L1,
    L2,
    LAMP,
    NM,
    SRSTE,
    Blocks,
    Budget,
    ConstantScale,
    Density,
    Direct,
    Filter,
    GeometricMedian,
    Global,
    Hard,
    Method,
    MultiAxis,
    Pruner,
    Sample,
    Schedule,
    Scheme,
    Scope,
    Soft,
    StepN,
    Uniform,
    Update,
    Wanda,
    Weight,
    block_nm_mask,
    nm_mask,
)  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 10))


def attached(model, path, schedule=None, update=None, estimator=None, pattern=None, scope=None):
    method = Method(
        scope or Scope(), pattern or NM(1, 16), L1(), Uniform(), path, update or Update(), estimator or SRSTE()
    )
    return Pruner(
        model,
        method,
        schedule or Schedule("linear", 0, 0.5),
        10,
        100,
        seed=7,
        classifier="4" if hasattr(model, "4") else None,
    )


def test_masks_follow_the_path_and_only_in_scope():
    model = network()
    plain = copy.deepcopy(model)
    pruner = attached(model, Blocks())
    assert [layer.name for layer in pruner.layers] == ["1", "3"]
    for step in (0, 10, 25, 50, 99):
        pruner.tick(step)
        for layer, mask in zip(pruner.layers, pruner.masks, strict=True):
            weight = plain.get_submodule(layer.name).weight
            assert torch.equal(mask, block_nm_mask(weight, 1, 16, min(1, step / 50)))
            assert torch.equal(layer.weight, weight * mask)
    assert torch.equal(model[0].weight, plain[0].weight)


def test_a_refresh_writes_into_the_same_buffer():
    pruner = attached(network(), StepN())
    before = [mask.data_ptr() for mask in pruner.masks]
    pruner.tick(30)
    assert [mask.data_ptr() for mask in pruner.masks] == before


def test_ticks_come_at_their_interval_and_are_forced_at_start_and_stop():
    pruner = attached(network(), Blocks(), Schedule("linear", "13it", "57it"), Update(every="20it"))
    assert [step for step in range(100) if pruner.due(step)] == [0, 13, 20, 40, 57, 60, 80]
    pruner = attached(network(), Blocks(), Schedule("linear", 0, 0.5), Update(every="1ep", until="50it"))
    assert [step for step in range(100) if pruner.due(step)] == [0, 10, 20, 30, 40, 50]


def test_frozen_masks_stay():
    model = network()
    pruner = attached(model, Blocks(), update=Update(until=0.5))
    pruner.tick(50)
    before = [mask.clone() for mask in pruner.masks]
    for weight in pruner._weights:
        weight.data.normal_()
    pruner.tick(60)
    pruner.refresh(100)
    assert all(torch.equal(a, b) for a, b in zip(before, pruner.masks, strict=True))


def test_masks_that_would_freeze_before_the_target_are_refused():
    with pytest.raises(ValueError, match=r"until=0\.25: masks would freeze at step 25"):
        attached(network(), Blocks(), update=Update(until=0.25))
    for every in (5, 0.5, "0it", "soon"):
        with pytest.raises(ValueError, match="every="):
            Update(every=every)


def test_direct_jumps_when_the_window_opens():
    model = network()
    pruner = attached(model, Direct(), Schedule("cubic", 0.2, 0.8))
    pruner.tick(0)
    assert all(mask.all() for mask in pruner.masks)
    pruner.tick(20)
    assert [torch.equal(m, nm_mask(w, 1, 16)) for m, w in zip(pruner.masks, pruner._weights, strict=True)] == [True] * 2
    assert attached(network(), Direct(), Schedule("one_shot", 0, 0)).window.progress(0) == 1


def test_finalise_leaves_a_plain_model_with_the_masks_of_the_last_refresh():
    model = network()
    names = set(model.state_dict())
    pruner = attached(model, StepN())
    pruner.tick(100)
    used = [layer.weight.clone() for layer in pruner.layers]
    for weight in pruner._weights:
        weight.data.mul_(1.0)
    pruner.finalise()
    assert set(model.state_dict()) == names
    assert type(model[1]) is nn.Conv2d
    assert all(torch.equal(layer.weight, w) for layer, w in zip(pruner.layers, used, strict=True))
    assert pruner.verify() is True
    model[1].weight.data[0, :2, 0, 0] = 1.0  # a second non-zero in the first group
    model[1].weight.data[0, 2:, 0, 0] = 0.0
    assert pruner.verify() is False


def test_churn_and_revived_by_hand():
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    model[0].weight.data.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    scope = Scope(skip_first=False, skip_classifier=False)
    pruner = attached(model, Direct(), Schedule("one_shot", 0, 0), pattern=NM(2, 4), scope=scope)
    pruner.tick(0)
    assert pruner.end_epoch() == {"kept": 0.5, "churn": 0.5, "revived": 0.0}  # from all ones
    pruner._weights[0].data.copy_(torch.tensor([[4.0, 1.0, 2.0, 3.0]]))
    pruner.tick(1)
    assert pruner.end_epoch() == {"kept": 0.5, "churn": 0.5, "revived": 0.25}
    assert pruner.end_epoch() == {"kept": 0.5, "churn": 0.0, "revived": 0.0}


def test_random_order_is_fixed_by_the_seed_and_differs_between_layers():
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    pruners = [attached(copy.deepcopy(model), Blocks("random")) for _ in range(2)]
    for pruner in pruners:
        pruner.tick(25)
    assert all(torch.equal(a, b) for a, b in zip(pruners[0].masks, pruners[1].masks, strict=True))
    first, second = (mask.view(-1, 16).all(1) for mask in pruners[0].masks[:2])
    assert not torch.equal(first, second)
    early = [mask.clone() for mask in pruners[0].masks]
    pruners[0].tick(40)
    assert all((late <= mask).all() for mask, late in zip(early, pruners[0].masks, strict=True))  # one permutation


def test_state_dict_brings_masks_and_counters_back():
    model = network()
    pruner = attached(model, Blocks())
    pruner.tick(20)
    pruner.end_epoch()
    other = network()
    restored = attached(other, Blocks())
    other.load_state_dict(model.state_dict())
    restored.load_state_dict(pruner.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(pruner.masks, restored.masks, strict=True))
    assert restored.end_epoch() == pruner.end_epoch()


def test_dense_attaches_nothing():
    model = network()
    pruner = Pruner(model, Method(Scope()), Schedule("one_shot", 0, 0), 10, 100, classifier="4")
    pruner.tick(0)
    pruner.before_step(None)
    pruner.after_step(None)
    pruner.finalise()
    assert not hasattr(model[1], "parametrizations")
    assert (pruner.verify(), pruner.kept(), pruner.targets()) == (None, [1.0, 1.0], [1.0, 1.0])


def test_states_between():
    assert attached(network(), StepN(), pattern=NM(2, 4)).states() == ["4:4", "3:4", "2:4"]
    assert attached(network(), StepN(), pattern=NM(4, 4)).states() == ["4:4"]


def test_compiled_models_see_refreshed_masks():
    """Masks are refreshed in place, so a compiled graph neither goes stale nor is compiled anew."""
    model = network()[3:4]
    pruner = attached(model, StepN(), scope=Scope(skip_first=False, skip_classifier=False), estimator=Hard())
    compilations = []

    def backend(graph, _inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    x = torch.randn(2, 32)
    for step in (0, 20, 50):
        pruner.tick(step)
        assert torch.equal(compiled(x), model(x))
    assert len(compilations) == 1


def filters(model, allocation, update=None, estimator=None, schedule=None):
    method = Method(
        Scope(skip_first=False), Filter(0.5), L2(), allocation, Density(), update or Update(), estimator or Soft()
    )
    return Pruner(
        model,
        method,
        schedule or Schedule("one_shot", 0, 0),
        10,
        100,
        seed=7,
        classifier="4" if hasattr(model, "4") else None,
    )


def test_counts_fixed_once_stay_and_live_ones_follow_the_weights():
    for refresh, moves in (("once", False), ("tick", True)):
        pruner = filters(network(), Global(normalise="none", refresh=refresh))
        pruner.tick(0)
        first = list(pruner.levels)
        pruner._weights[0].data.normal_().mul_(100)  # now its filters are the largest of the network
        pruner.tick(1)
        assert (pruner.levels != first) == moves
        assert [int(pruner.method.pattern.units(mask).sum()) for mask in pruner.masks] == pruner.levels


def test_an_allocation_decides_when_the_first_unit_is_to_go():
    pruner = filters(network(), Global(refresh="once"), schedule=Schedule("linear", 0.2, 0.5))
    pruner.tick(0)
    pruner.tick(20)
    assert pruner.levels is None  # progress is still 0
    assert pruner.targets() == [1.0] * 3
    pruner.tick(21)
    assert pruner.levels is not None


def test_hysteresis_keeps_near_ties_from_flipping():
    for hysteresis, flips in ((0.0, True), (0.2, False)):
        model = nn.Sequential(nn.Linear(4, 1, bias=False))
        model[0].weight.data.copy_(torch.tensor([[4.0, 1.1, 1.0, 0.1]]))
        method = Method(
            Scope(False, False), Weight(0.5), L1(), Uniform(), Direct(), Update(hysteresis=hysteresis), SRSTE()
        )
        pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 10, 100)
        pruner.tick(0)
        assert pruner.masks[0].tolist() == [[True, True, False, False]]
        pruner._weights[0].data.copy_(torch.tensor([[4.0, 1.0, 1.1, 0.1]]))
        pruner.tick(1)
        assert bool(pruner.masks[0][0, 2]) == flips


def test_what_never_regrows_stays_pruned():
    model = network()
    pruner = attached(model, Blocks(rerank="sticky"), update=Update(regrow="never"))
    last = None
    for step in range(0, 60, 5):
        pruner.tick(step)
        if last:
            assert all((mask <= before).all() for mask, before in zip(pruner.masks, last, strict=True))
        last = [mask.clone() for mask in pruner.masks]
        for weight in pruner._weights:
            weight.data.normal_()
    assert all(torch.equal(nm_mask(mask.float(), 1, 16), mask) for mask in pruner.masks)  # at the target


def test_churn_counts_units_not_weights():
    model = nn.Sequential(nn.Conv2d(1, 4, 3))
    pruner = filters(model, Uniform())
    pruner.tick(0)
    assert pruner.end_epoch() == {"kept": 0.5, "churn": 0.5, "revived": 0.0}
    order = pruner._weights[0].data.flatten(1).norm(dim=1).argsort()
    pruner._weights[0].data[order[0]] = 100.0  # one filter comes back, and one goes for it
    pruner.tick(1)
    assert pruner.end_epoch() == {"kept": 0.5, "churn": 0.5, "revived": 0.25}


SAMPLE = Sample(torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(1)), torch.arange(8))


def mixed(model, score="sensitivity", path=None, estimator=None, **more):
    allocation = Budget(score, [1, 2, 4, 8], **more)
    method = Method(Scope(), NM(2, 8), L1(), allocation, path or Direct(), Update(), estimator or SRSTE())
    return Pruner(model, method, Schedule("linear", 0, 0.5), 10, 100, classifier="4", sample=SAMPLE)


@pytest.mark.parametrize("score", ["sensitivity", "owl"])
def test_measuring_leaves_model_and_masks_as_they_were(score):
    model = network()
    pruner = mixed(model, score)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    candidates = pruner._network.views()
    if score == "sensitivity":
        dense = candidates[0].loss(8)
        assert candidates[0].loss(1) != dense
        plain = nn.functional.cross_entropy(network().eval()(SAMPLE.images), SAMPLE.labels).detach()
        assert dense == pytest.approx(float(plain), rel=1e-5)
    else:
        assert candidates[0].input_norm.all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_levels_are_measured_under_a_scaling_estimator_too():
    pruner = mixed(network(), estimator=MultiAxis())
    assert len({pruner._network.views()[0].loss(level) for level in (1, 2, 4, 8)}) == 4


def test_every_layer_walks_from_dense_to_its_own_n():
    model = network()
    pruner = mixed(model, "weight_error", StepN())
    pruner.tick(25)
    assert len(set(pruner.levels)) > 1
    halfway = [int(mask.movedim(1, -1).reshape(-1, 8).sum(1).max()) for mask in pruner.masks]
    assert halfway == [8 - (8 - level) // 2 for level in pruner.levels]
    pruner.tick(50)
    pruner.finalise()
    assert pruner.verify()
    report = pruner.allocation_report()
    assert 0 <= report["params_slack"] < 0.2
    assert report["moved"] == 1.0  # no layer is at 2:8 any more


def test_a_scheme_gives_the_masks_it_was_made_from(tmp_path):
    first = mixed(network(), "weight_error", per="filter")
    first.tick(100)
    (tmp_path / "scheme.json").write_text(first.scheme())
    method = Method(Scope(), NM(2, 8), L1(), Scheme(str(tmp_path / "scheme.json")), Blocks(), Update(), SRSTE())
    second = Pruner(network(), method, Schedule("linear", 0, 0.5), 10, 100, classifier="4")
    second.tick(100)
    assert all(torch.equal(a, b) for a, b in zip(first.masks, second.masks, strict=True))


def test_levels_come_back_with_the_state(tmp_path):
    model, other = network(), network()
    pruner, restored = (mixed(each, "weight_error", per="filter") for each in (model, other))
    pruner.tick(30)
    torch.save({"model": model.state_dict(), "pruner": pruner.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(saved["model"])
    restored.load_state_dict(saved["pruner"])
    for weight, twin in zip(pruner._weights, restored._weights, strict=True):
        weight.data.normal_()
        twin.data.copy_(weight.data)
    pruner.tick(40)
    restored.tick(40)  # by the levels decided before, not by the present weights
    assert all(torch.equal(a, b) for a, b in zip(pruner.masks, restored.masks, strict=True))


def test_what_measures_needs_a_sample():
    for criterion, allocation in ((Wanda(), Uniform()), (L1(), Budget())):
        method = Method(Scope(), NM(2, 8), criterion, allocation, Direct(), Update(), SRSTE())
        with pytest.raises(ValueError, match="measures on training images"):
            Pruner(network(), method, Schedule("one_shot", 0, 0), 10, 100, classifier="4")


def test_a_random_order_at_each_tick_is_a_function_of_the_step():
    orders = []
    for _ in range(2):
        pruner = attached(network(), Blocks("random_tick"))
        pruner.tick(10)
        first = pruner.masks[0].clone()
        pruner.tick(11)
        orders.append((first, pruner.masks[0].clone()))
    assert torch.equal(orders[0][1], orders[1][1])  # resuming at step 11 draws the same
    early, late = orders[0]
    assert not (late <= early).all()  # and it is another permutation than that of step 10


def test_a_layer_emptied_by_accident_is_noticed():
    model = network()
    pruner = attached(model, Direct(), Schedule("one_shot", 0, 0))
    pruner.tick(0)
    pruner.finalise()
    assert pruner.verify()
    model[1].weight.data.zero_()
    assert not pruner.verify()


@pytest.mark.parametrize("path", [Direct(), StepN(), StepN(steps="powers_of_two"), Blocks()])
def test_a_file_may_empty_a_layer(tmp_path, path):
    (tmp_path / "collapsed.json").write_text('{"pattern": "nm", "m": 8, "levels": {"1": 0, "3": 8}}')
    method = Method(Scope(), NM(2, 8), L1(), Scheme(str(tmp_path / "collapsed.json")), path, Update(), SRSTE())
    model = network()
    pruner = Pruner(model, method, Schedule("linear", 0, 0.5), 10, 100, classifier="4")
    pruner.tick(25)
    pruner.tick(50)
    pruner.finalise()
    assert not model[1].weight.any()
    assert model[3].weight.all()
    assert pruner.verify()


def wander(pruner, steps):
    """Refresh under weights that change at every step; yields the masks."""
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        for weight in pruner._weights:
            weight.data.mul_(torch.rand(weight.shape, generator=generator) + 0.5)
        pruner.refresh(step)
        yield [mask.clone() for mask in pruner.masks]


NEVER = Update(regrow="never")


@pytest.mark.parametrize(
    "method",
    [
        Method(Scope(skip_first=False), Filter(0.5), L2(), Global(normalise="mean"), Density(), NEVER, Hard()),
        Method(Scope(), NM(1, 4), L1(), Uniform(), StepN("group"), NEVER, SRSTE()),
        Method(Scope(), NM(2, 8), L1(), Global(), Blocks(rerank="sticky"), NEVER, SRSTE()),
        Method(Scope(), Weight(0.8), L1(), LAMP(), Density(), NEVER, SRSTE()),
    ],
    ids=["global", "group", "blocks", "lamp"],
)
def test_nothing_comes_back_where_nothing_may_regrow(method):
    pruner = Pruner(network(), method, Schedule("linear", 0, 1.0), 12, 12, classifier="4")
    last = None
    for masks in wander(pruner, 13):
        if last:
            assert not any((mask & ~before).any() for mask, before in zip(masks, last, strict=True))
        last = masks
    pruner.finalise()
    assert pruner.verify()


def test_a_second_refresh_at_one_step_changes_nothing():
    """An epoch ends with a refresh and the next begins with one; zeroed filters must not make others go."""
    model = nn.Sequential(nn.Conv2d(3, 10, 3, bias=False))
    torch.manual_seed(0)
    model[0].weight.data = torch.randn(1, 3, 3, 3) + 0.1 * torch.randn(10, 3, 3, 3)
    method = Method(Scope(skip_first=False), Filter(0.4), GeometricMedian(), Uniform(), Direct(), Update("1ep"), Soft())
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 5, 10)
    pruner.refresh(0)
    pruner.tick(0)
    assert int(pruner._weights[0].flatten(1).any(1).sum()) == 6
    restored = Pruner(nn.Sequential(nn.Conv2d(3, 10, 3, bias=False)), method, Schedule("one_shot", 0, 0), 5, 10)
    restored.load_state_dict(pruner.state_dict())
    before = [mask.clone() for mask in restored.masks]
    restored.tick(0)  # done before the interruption
    assert all(torch.equal(a, b) for a, b in zip(before, restored.masks, strict=True))


def test_what_cannot_be_measured_is_refused_before_training():
    model = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2))
    method = Method(Scope(False, False), Weight(0.5), Wanda(), Uniform(), Direct(), Update(), Hard())
    sample = Sample(torch.randn(4, 3, 8), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"out_proj.*cannot be observed; leave them out with pruner.exclude"):
        Pruner(model, method, Schedule("one_shot", 0, 0), 10, 100, sample=sample)


@pytest.mark.parametrize(
    ("pattern", "allocation", "message"),
    [
        (Filter(0.5), Global(min_density=0.95), r"min_density=0\.95: this floor alone costs"),
        (NM(1, 8), Budget("weight_error", budget="macs"), None),
        (Weight(0.999), Budget("weight_error"), None),
    ],
)
def test_budgets_that_cannot_be_met_are_refused_when_attached(pattern, allocation, message):
    method = Method(Scope(skip_first=False), pattern, L1(), allocation, Direct(), Update(), Hard())

    def attach():
        return Pruner(network(), method, Schedule("one_shot", 0.5, 0.5), 10, 100, classifier="4", sample=SAMPLE)

    if message:
        with pytest.raises(ValueError, match=message):
            attach()
    else:
        pruner = attach()
        pruner.tick(50)
        pruner.finalise()
        assert pruner.verify()


def test_an_emptied_layer_has_no_factor_to_average(tmp_path):
    (tmp_path / "collapsed.json").write_text('{"pattern": "nm", "m": 8, "levels": {"1": 0, "3": 8}}')
    method = Method(
        Scope(), NM(2, 8), L1(), Scheme(str(tmp_path / "collapsed.json")), Direct(), Update(), ConstantScale()
    )
    model = network()
    pruner = Pruner(model, method, Schedule("one_shot", 0, 0), 10, 100, classifier="4")
    pruner.tick(0)
    assert model(torch.randn(2, 3, 5, 5)).isfinite().all()


@pytest.mark.parametrize("estimator", [Hard(), SRSTE(), Soft(), MultiAxis(), ConstantScale()])
def test_models_in_half_precision(estimator):
    model = network().bfloat16()
    pruner = attached(model, Direct(), Schedule("one_shot", 0, 0), estimator=estimator)
    pruner.tick(0)
    assert model(torch.randn(2, 3, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
    pruner.finalise()
    assert pruner.verify()
