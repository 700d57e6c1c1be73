"""How values of layers go with depth, against scipy and obvious slow versions."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from midstate.study.depth import concordance, mean_tau, permuted, same_size, with_depth

SIZES = [(100, 900)] * 3 + [(400, 900)] * 3
rows_of_bits = st.lists(st.lists(st.integers(2, 8), min_size=6, max_size=6), min_size=1, max_size=4)


@given(rows_of_bits)
def test_correlations_are_means_over_seeds(values):
    found = with_depth(values, range(6), SIZES)
    of_seeds = [0.0 if len(set(row)) == 1 else stats.spearmanr(row, range(6)).statistic for row in values]
    assert found.plain[0] == pytest.approx(np.mean(of_seeds))
    assert found.seeds == len(values)
    assert found.plain[1] <= found.plain[0] + 1e-12


def test_bits_that_follow_size_alone_have_nothing_left_given_size():
    found = with_depth([[8, 8, 8, 3, 3, 3]] * 2, range(6), SIZES)
    assert found.plain == pytest.approx((-0.878310,) * 3, abs=1e-6)
    assert found.given_size == (0, 0, 0)
    assert found.p_size == 1
    assert (found.concordance, found.tau) == pytest.approx((1, 1))


def test_bits_that_follow_depth_within_one_size_have_a_correlation_given_size():
    found = with_depth([[8, 7, 6, 5, 4, 3]], range(6), SIZES)
    assert found.plain[0] == found.given_size[0] == pytest.approx(-1)
    assert found.p_size < 0.06  # 2 of the 36 orders within both sizes are as strict
    assert (found.concordance, found.tau) == (None, None)  # one seed


def test_without_layers_of_one_size_there_is_no_control_that_respects_size():
    assert with_depth([[3, 4, 5]], range(3), [(1, 1), (2, 1), (3, 1)]).p_size is None


def test_layers_that_are_all_the_same_have_no_order():
    found = with_depth([[4, 4, 4], [2, 3, 4]], range(3), [(1, 1)] * 3)
    assert (found.seeds, found.ordered) == (2, 1)
    assert with_depth([[4, 4, 4]], range(3), [(1, 1)] * 3).p == 1  # nothing to be found


@pytest.mark.slow
def test_permuted_agrees_with_scipy():
    draws = np.random.default_rng(1)
    for _ in range(5):
        values = draws.integers(2, 9, 10)
        by_scipy = stats.permutation_test(
            (values,), lambda x: stats.spearmanr(x, np.arange(10)).statistic, permutation_type="pairings",
            n_resamples=1999, random_state=np.random.default_rng(2),
        )  # fmt: skip
        assert permuted(values[None], np.arange(10), [0] * 10) == pytest.approx(by_scipy.pvalue, abs=0.04)


def test_permuted_agrees_with_all_orders_within_strata():
    """Every pair of orders of 3 and 3 layers, slowly; two seeds are dealt the same depths."""
    values, depths, strata = np.array([[2, 3, 3, 5, 4, 8], [2, 2, 4, 8, 5, 6]]), np.arange(6), [0, 0, 0, 1, 1, 1]

    def statistic(order):
        """Mean over seeds of the covariance of ranks, within sizes."""
        ranks = stats.rankdata(depths[list(order)])
        scores = [(r - r.mean()) / r.std() for r in map(stats.rankdata, values)]
        return np.mean(
            [sum((ranks[at] - ranks[at].mean()) @ row[at] for at in ([0, 1, 2], [3, 4, 5])) for row in scores]
        )

    found = abs(statistic(range(6)))
    every = [abs(statistic((*a, *b))) for a in permutations((0, 1, 2)) for b in permutations((3, 4, 5))]
    exact = np.mean([each >= found - 1e-9 for each in every])
    assert permuted(values, depths, strata) == pytest.approx(exact, abs=0.02)


def test_permuted_is_uniform_where_nothing_is_there():
    draws = np.random.default_rng(0)
    p = [permuted(draws.normal(size=(2, 12)), range(12), [0] * 6 + [1] * 6, draws=199) for _ in range(300)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def test_layers_of_one_size_agree_in_all_columns():
    assert same_size(np.array([[1, 1], [2, 1], [1, 1], [2, 2]])).tolist() == [0, 1, 0, 2]


def test_concordance_is_the_textbook_formula():
    values = np.array([[1, 2, 3, 4], [1, 3, 2, 4], [2, 1, 3, 4]])  # no ties: 12 S / (m^2 (n^3 - n))
    sums = values.sum(0)
    assert concordance(values) == pytest.approx(12 * ((sums - sums.mean()) ** 2).sum() / (9 * (64 - 4)))
    assert concordance([[1, 2, 3]] * 3) == pytest.approx(1)
    assert concordance([[1, 1, 3], [1, 1, 3]]) == pytest.approx(1)  # ties are corrected for
    assert concordance([[4, 4, 4], [4, 4, 4]]) is None


def test_tau_is_the_mean_over_pairs():
    values = [[1, 2, 3, 4], [1, 3, 2, 4], [4, 3, 2, 1], [5, 5, 5, 5]]
    pairs = [stats.kendalltau(x, y).statistic for x, y in combinations(values[:3], 2)]
    assert mean_tau(values) == pytest.approx(np.mean(pairs))
    assert mean_tau(values[2:]) is None


@pytest.mark.parametrize(
    ("values", "sizes", "answer"),
    [
        ([[1, 2]], [(1, 1)] * 2, "values|depths"),
        ([[1, 2, math.nan]], [(1, 1)] * 3, r"values\[0\]\[2\]=nan"),
        ([[1, 2, 3]], [(1, 1), (0, 1), (1, 1)], "must be above 0"),
        ([[1, 2, 3]], [(1, 1)] * 4, "as many as the others"),
    ],
)
def test_bad_input_is_named(values, sizes, answer):
    with pytest.raises(ValueError, match=answer):
        with_depth(values, range(len(values[0])), sizes)
