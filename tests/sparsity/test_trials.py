"""Trials of schemes: what a finetune does, what is measured, and that nothing of it is left."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from midstate.sparsity import (
    HAQ,
    L1,
    NM,
    SRSTE,
    Direct,
    Filter,
    Hard,
    HardChannels,
    LayerView,
    Method,
    Pruner,
    RandomSearch,
    Sample,
    Schedule,
    Scope,
    Soft,
    Uniform,
    Unrankable,
    Update,
    Weight,
)
from midstate.sparsity.trials import Finetune, top1

DRAWS = torch.Generator().manual_seed(0)
TUNING = Sample(torch.randn(40, 4, 4, 4, generator=DRAWS), torch.arange(40) % 4)
HELD_OUT = Sample(torch.randn(30, 4, 4, 4, generator=DRAWS), torch.arange(30) % 4)
SAMPLE = Sample(TUNING.images, TUNING.labels, TUNING, HELD_OUT)
SETTINGS = {"trial_steps": 5, "trial_batch": 16, "trial_lr": 0.05}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


def attached(model, pattern=None, estimator=None, sample=SAMPLE, **settings):
    allocation = HAQ(episodes=4, warmup=2, **{**SETTINGS, **settings})
    method = Method(
        Scope(skip_first=False), pattern or Weight(0.5), L1(), allocation, Direct(), Update(), estimator or Hard()
    )
    return Pruner(model, method, Schedule("linear", 0.25, 0.5), 2, 8, seed=3, classifier="8", sample=sample)


def tried(pruner, levels):
    pruner._tried = pruner._network.views(2)
    with torch.no_grad():
        return pruner.search.trial(levels)


def stepped(model):
    """A network that has begun to train: momenta, statistics, generators and gradients are not those of the start."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    F.cross_entropy(model(TUNING.images), TUNING.labels).backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("pattern", "estimator"),
    [(Weight(0.5), Hard()), (NM(2, 4), SRSTE()), (Filter(0.5), Soft()), (Filter(0.5), HardChannels())],
    ids=lambda each: type(each).__name__,
)
def test_a_trial_leaves_no_bit_changed(pattern, estimator):
    model = network()
    pruner = attached(model, pattern, estimator)
    optimizer = stepped(model)
    momenta = copy.deepcopy(optimizer.state_dict())
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for module in model:
        module.train()
    levels = [pattern.choices(layer.shape)[0] for layer in pruner._network.views()]
    first = tried(pruner, levels)
    assert tried(pruner, levels) == first
    assert 0 <= first <= 100
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(momenta["state"][i]["momentum_buffer"], after[i]["momentum_buffer"]) for i in after)
    assert all(mask.all() for mask in pruner.masks)


def test_a_batchnorm_is_as_frozen_after_a_trial_as_before():
    model = network()
    pruner = attached(model)
    model.train()[1].eval()
    tried(pruner, [4, 8])
    assert [name for name, module in model.named_modules() if not module.training] == ["1"]


def test_a_trial_that_is_interrupted_leaves_no_bit_changed_either():
    model = network()
    pruner, before = attached(model), None

    def stop(*_):
        raise KeyboardInterrupt

    before = copy.deepcopy(model.state_dict())
    hook = model[8].register_forward_pre_hook(lambda *_: stop() if not model.training else None)
    with pytest.raises(KeyboardInterrupt):
        tried(pruner, [4, 8])
    hook.remove()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_finetune_is_sgd_on_the_masked_network_by_hand():
    model = network()
    model[3].p = 0.0
    pruner = attached(model, trial_momentum=0.9, trial_weight_decay=0.01, trial_images=40, held_out=30)
    plain = network()
    plain[3].p = 0.0
    masks = [Weight(0.5).mask(plain[i].weight.detach().abs(), level) for i, level in ((0, 12), (4, 100))]
    optimizer = torch.optim.SGD(plain.parameters(), 0.05, 0.9, weight_decay=0.01)
    generator = torch.Generator().manual_seed(_seed_of(pruner))
    steps = []
    while len(steps) < 5:  # two batches of 16 an epoch of 40 images
        order = torch.randperm(40, generator=generator)
        steps += [order[:16], order[16:32]]
    for chosen in steps[:5]:
        optimizer.zero_grad()
        for i, mask in zip((0, 4), masks, strict=True):
            plain[i].weight.data.mul_(mask)
        F.cross_entropy(plain(TUNING.images[chosen]), TUNING.labels[chosen]).backward()
        for i, mask in zip((0, 4), masks, strict=True):
            plain[i].weight.grad.mul_(mask)
        optimizer.step()
    for i, mask in zip((0, 4), masks, strict=True):
        plain[i].weight.data.mul_(mask)
    plain.eval()
    seen = []
    hook = model.register_forward_hook(lambda _, inputs, output: seen.append(output) if not model.training else None)
    found = tried(pruner, [12, 100])
    hook.remove()
    torch.testing.assert_close(seen[0], plain(HELD_OUT.images).detach(), rtol=1e-4, atol=1e-5)
    assert found == top1(plain, HELD_OUT)


def _seed_of(pruner):
    from midstate.sparsity import seed_for

    return seed_for(pruner._network.seed, "trials")


def test_a_finetune_that_diverges_is_no_number_and_ends_the_search():
    pruner = attached(network(), trial_lr=1e30)
    assert math.isnan(tried(pruner, [4, 8]))
    with pytest.raises(Unrankable, match="NaN for a reward in episode 1"):
        pruner.refresh(3)
    assert pruner.levels is None


def test_images_to_tune_and_to_hold_out_are_disjoint():
    images = Sample(torch.arange(30.0)[:, None], torch.arange(30))
    tuning, held_out = Finetune(trial_images=20, held_out=10).split(images)
    assert tuning.labels.tolist() == list(range(20))
    assert held_out.labels.tolist() == list(range(20, 30))
    with pytest.raises(ValueError, match="trial_images=20, held_out=11: are more than the 30 training images"):
        Finetune(trial_images=20, held_out=11).split(images)
    with pytest.raises(ValueError, match="give the pruner a sample with images to tune and to hold out"):
        attached(network(), sample=Sample(TUNING.images, TUNING.labels))


@pytest.mark.parametrize("make", [HAQ, RandomSearch], ids=lambda each: each.__name__)
def test_a_pruner_searches_when_pruning_begins_and_its_checkpoint_goes_on(make):
    def walk(pruner, saved=None):
        if saved is not None:
            pruner.load_state_dict(saved)
        pruner.refresh(3)
        return pruner

    def stop():
        if len(stopped.search.rows) == 2:
            raise KeyboardInterrupt

    settings = {"trial_images": 40, "held_out": 30, **SETTINGS, "budget": "params", "levels": [8, 16, 300]}
    methods = [
        Method(Scope(skip_first=False), Weight(0.5), L1(), make(episodes=5, **settings), Direct(), Update(), Hard())
        for _ in range(3)
    ]
    pruners = [
        Pruner(network(), method, Schedule("linear", 0.25, 0.5), 2, 8, seed=3, classifier="8", sample=SAMPLE)
        for method in methods
    ]
    whole, stopped, resumed = pruners
    walk(whole)
    assert len(whole.search.rows) == 5
    assert sum(whole.levels) <= 0.5 * (32 + 576)
    stopped.search.between.append(stop)
    with pytest.raises(KeyboardInterrupt):
        walk(stopped)
    assert stopped.levels is None
    walk(resumed, stopped.state_dict())
    assert resumed.search.rows == whole.search.rows
    assert resumed.levels == whole.levels
    assert all(torch.equal(a, b) for a, b in zip(resumed.masks, whole.masks, strict=True))
    assert "agent" not in whole.state_dict()["search"]["state"]


def test_only_what_says_how_to_finetune_may_need_trials():
    class Own(Uniform):
        needs = ("trial",)

    with pytest.raises(ValueError, match=r"allocation=Own: needs=\('trial',\): trials need the settings of a finetune"):
        Method(Scope(), Weight(0.5), L1(), Own(), Direct(), Update(), Hard())


def test_views_say_what_kind_of_layer_they_are():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8, 4))
    method = Method(Scope(False, False, False), Weight(0.5), L1(), RandomSearch(), Direct(), Update(), Hard())
    pruner = Pruner(model, method, Schedule("linear", 0, 0.5), 2, 8, sample=SAMPLE)
    views: list[LayerView] = pruner._network.views()
    assert [(view.stride, view.is_depthwise, view.is_conv) for view in views] == [
        (2, False, True), (1, True, True), (1, False, False)
    ]  # fmt: skip
    assert all(view.search is pruner.search for view in views)
