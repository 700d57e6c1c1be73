import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstate.sparsity import NM, Filter, Row, Weight, nm_mask, verify

WEIGHT = torch.tensor([[4.0, -1.0, 0.5, 3.0], [0.1, 0.2, -0.3, 5.0], [2.0, 0.0, 0.0, 1.0]])


def test_masks_by_hand():
    assert Weight(0.5).mask(WEIGHT.abs(), 4).int().tolist() == [[1, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]]
    assert Row(0.5).mask(WEIGHT.abs(), 1).int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    pattern = Filter(0.3)
    score = pattern.pool(WEIGHT.abs())
    assert score.tolist() == pytest.approx([8.5, 5.6, 3.0])
    mask = pattern.expand(pattern.mask(score, 2), WEIGHT.shape)
    assert mask.int().tolist() == [[1] * 4, [1] * 4, [0] * 4]
    assert pattern.units(mask).tolist() == [True, True, False]


def test_uniform_levels_and_their_rounding():
    # Weights: floor((1 - s) * n) stay, never more than asked. Filters: floor(s * n) go, as SFP prunes.
    assert Weight(0.9).target(torch.Size((3, 5, 3, 3))) == 13  # of 135: 13.5
    assert Row(0.9).target(torch.Size((3, 5, 3, 3))) == 4  # of 45 a row: 4.5
    assert [Filter(0.3).target(torch.Size((n, 8))) for n in (16, 32, 64)] == [12, 23, 45]
    assert [Filter(0.4).target(torch.Size((n, 8))) for n in (16, 32, 64)] == [10, 20, 39]
    assert Weight(0.3).target(torch.Size((10, 1))) == 7  # 0.7 * 10 is 6.999.. in floating point
    assert Weight(0.999).target(torch.Size((2, 2))) == 1  # never empty


@given(
    seed=st.integers(0, 2**31),
    make=st.sampled_from([Weight, Row, Filter]),
    sparsity=st.floats(0, 0.99),
    kernel=st.sampled_from([(), (3, 3)]),
)
def test_what_is_kept_is_what_was_counted(seed, make, sparsity, kernel):
    weight = torch.randn((8, 6, *kernel), generator=torch.Generator().manual_seed(seed))
    pattern = make(sparsity)
    level = pattern.target(weight.shape)
    mask = pattern.expand(pattern.mask(pattern.pool(weight.abs()), level), weight.shape)
    assert int(mask.sum()) == pattern.kept(weight.shape, level)
    assert verify(weight * mask, pattern, level)
    assert pattern.target(weight.shape) in range(1, pattern.full(weight.shape) + 1)
    assert verify(weight, pattern, pattern.full(weight.shape))
    if level < pattern.full(weight.shape):
        assert not verify(weight, pattern, level)


def test_one_level_a_filter():
    weight = torch.randn(3, 8, 2, 2)
    levels = torch.tensor([1, 2, 4])
    pattern = NM(2, 4)
    mask = pattern.mask(weight.abs(), levels)
    for row, level in enumerate(levels.tolist()):
        assert torch.equal(mask[row : row + 1], nm_mask(weight[row : row + 1], level, 4))
    assert pattern.kept(weight.shape, levels) == int(mask.sum()) == 2 * 4 * (1 + 2 + 4)
    assert verify(weight * mask, pattern, levels)
    assert not verify(weight, pattern, levels)


@pytest.mark.parametrize("pattern", [NM(2, 4), Weight(0.5), Row(0.5), Filter(0.5)])
def test_a_collapsed_layer_does_not_pass(pattern):
    empty = torch.zeros(4, 8)
    assert not verify(empty, pattern, pattern.target(empty.shape))
    assert verify(empty, pattern, 0)  # unless it was asked for


@pytest.mark.parametrize("make", [Weight, Row, Filter])
@pytest.mark.parametrize("bad", [1.0, -0.1, 1.5, float("nan"), "half", True])
def test_impossible_sparsity_is_refused(make, bad):
    with pytest.raises(ValueError, match="sparsity="):
        make(bad)
