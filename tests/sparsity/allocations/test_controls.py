"""Allocations that serve as controls, and swaps that are forced."""

import pytest
import torch
from test_allocation import PATTERNS, network, spent
from torch import Generator, nn

from midstate.sparsity import (
    ERK,
    L1,
    NM,
    SRSTE,
    Collapsed,
    Density,
    Direct,
    Filter,
    Hard,
    Method,
    Pruner,
    RandomShares,
    Reversed,
    Schedule,
    Scope,
    Uniform,
    Update,
    Weight,
)
from midstate.sparsity.allocations.base import uniform_cost


@pytest.mark.parametrize("budget", ["params", "macs"])
@pytest.mark.parametrize("control", [RandomShares, Reversed, Collapsed])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_controls_meet_the_budget_of_the_others(pattern, control, budget):
    layers = network(pattern)
    levels = control(budget).allocate(pattern, layers)
    assert all(1 <= level <= pattern.full(layer.shape) for level, layer in zip(levels, layers, strict=True))
    assert spent(pattern, layers, levels, budget) <= uniform_cost(pattern, layers, budget)


def test_reversed_gives_each_layer_the_density_of_its_opposite():
    pattern = Weight(0.9)
    layers = network(pattern, [(8, 8, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3)])
    sizes = [layer.shape.numel() for layer in layers]
    erk, other = (
        [level / size for level, size in zip(make.allocate(pattern, layers), sizes, strict=True)]
        for make in (ERK(), Reversed())
    )
    assert erk == sorted(erk, reverse=True)
    assert other == sorted(other)


def test_collapsed_empties_the_first_layers_and_no_more_than_it_must():
    pattern = Weight(0.5)  # 100 of 200 may stay
    layers = network(pattern, [(8, 10), (6, 10), (6, 10)], (1, 1, 1))
    # 80 -> 1 and 60 -> 39 leave 1 + 39 + 60 = 100.
    assert Collapsed().allocate(pattern, layers) == [1, 39, 60]


def test_random_shares_are_the_same_at_every_call():
    layers = [network(Weight(0.8)) for _ in range(2)]
    first, again = (RandomShares().allocate(Weight(0.8), each) for each in layers)
    assert first == again
    shares = [level / layer.shape.numel() for level, layer in zip(first, layers[0], strict=True)]
    assert max(shares) > 2 * min(shares)


def test_a_swap_exchanges_as_many_as_are_asked():
    in_use = torch.tensor([True] * 10 + [False] * 10)
    swapped = Update(forced_swaps=0.3).swap(in_use, Generator().manual_seed(0))
    assert (swapped & ~in_use).sum() == (in_use & ~swapped).sum() == 3
    # 0.05 of 10 is half a unit: one more with that chance.
    counts = [
        int((Update(forced_swaps=0.05).swap(in_use, Generator().manual_seed(seed)) & ~in_use).sum())
        for seed in range(400)
    ]
    assert set(counts) == {0, 1}
    assert sum(counts) / 400 == pytest.approx(0.5, abs=0.08)
    everything = torch.ones(5, dtype=torch.bool)
    assert Update(forced_swaps=1.0).swap(everything, Generator().manual_seed(0)).all()  # nothing to exchange with


def pruner_of(update, pattern=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 20, 3), nn.Flatten(), nn.Linear(80, 4))
    method = Method(Scope(), pattern or Filter(0.5), L1(), Uniform(), Density(), update, Hard())
    return Pruner(model, method, Schedule("linear", 0, 0.5), 10, 100, seed=7, classifier="3")


def test_forced_swaps_keep_the_count_and_flip_units():
    pruner = pruner_of(Update(regrow="never", forced_swaps=0.2))
    for step in range(50, 101, 10):
        pruner.refresh(step)
        pruner.end_epoch()
    (mask,) = pruner.masks
    assert mask.flatten(1)[:, 0].sum() == 10
    assert pruner.flipflop() > 0
    still = pruner_of(Update(regrow="never"))
    for step in range(50, 101, 10):
        still.refresh(step)
        still.end_epoch()
    assert still.flipflop() == 0


def test_flipflop_counts_units_that_changed_twice():
    pruner = pruner_of(Update())
    shape = pruner.masks[0].shape
    for kept in ([1] * 10 + [0] * 10, [1] * 9 + [0] * 10 + [1], [1] * 10 + [0] * 10):
        pruner.set_masks([torch.tensor(kept, dtype=torch.bool).view(-1, 1, 1, 1).expand(shape)])
        pruner.end_epoch()
    # Unit 9 stayed, went and came back; unit 19 went, came and went; units 10 to 18 went once.
    assert pruner.flipflop() == 2 / 20
    again = pruner_of(Update())
    again.load_state_dict(pruner.state_dict())
    assert again.flipflop() == 2 / 20


def test_forced_swaps_need_units_that_can_be_exchanged():
    with pytest.raises(ValueError, match=r"forced_swaps=0.1: exchanges units of a whole layer, and pattern=nm"):
        Method(Scope(), NM(2, 4), L1(), Uniform(), Direct(), Update(forced_swaps=0.1), SRSTE())
