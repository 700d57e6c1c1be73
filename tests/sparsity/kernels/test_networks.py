"""Networks of comparisons, against sorting."""

import itertools

import pytest
import torch

from midstate.sparsity.kernels.sorting_network import comparisons, largest_of, nth_largest_of


@pytest.mark.parametrize("m", range(1, 13))
def test_every_place_of_every_pattern_of_zeros_and_ones(m):
    """What sorts all zeros and ones sorts everything (Knuth's zero-one principle)."""
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=m)))
    for n in range(1, m + 1):
        assert nth_largest_of(every.unbind(1), n).equal(every.sort(1, descending=True).values[:, n - 1])


@pytest.mark.parametrize("m", [16, 20, 32, 64])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_larger_ones_with_ties_equal_sorting(m, share):
    values = torch.randn(50, m, 3, generator=torch.Generator().manual_seed(m)).mul(3).round()
    n = max(1, int(share * m))
    assert nth_largest_of(values.unbind(1), n).equal(values.sort(1, descending=True).values[:, n - 1])


@pytest.mark.parametrize("position", range(8))
@pytest.mark.parametrize("n", [1, 4, 8])
def test_nan_anywhere_is_seen(position, n):
    values = torch.arange(16.0).view(2, 8)
    values[1, position] = torch.nan
    found = nth_largest_of(values.unbind(1), n)
    assert found.isnan().tolist() == [False, True]


def test_what_leads_nowhere_is_left_out():
    assert comparisons(1, 4) == ((0, 1, True, False), (2, 3, True, False), (0, 2, True, False))
    assert sum(high + low for _, _, high, low in comparisons(2, 4)) == 7


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 11, 16])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_the_largest_by_halves(size, dim):
    shape = [3, 4, 5]
    shape[dim] = size
    values = torch.randn(shape, generator=torch.Generator().manual_seed(size))
    before = values.clone()
    assert largest_of(values, dim).equal(values.amax(dim, keepdim=True))
    assert values.equal(before)
    values.select(dim, size - 1)[0, 0] = torch.nan
    assert largest_of(values, dim).isnan().sum() == 1
