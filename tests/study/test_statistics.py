import math
import statistics as standard
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from midstate.common.correlations import partial_rank_correlation, rank_correlation
from midstate.study.statistics import (
    equivalence,
    minimum_detectable_effect,
    order_reversals,
    paired,
    residual_variance,
)

PAIRS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=12)  # ties are frequent


def t_of_2(probability):
    """Quantile of Student's t with two degrees of freedom, which has a closed form."""
    return (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))


def found(effect, num_pairs, alpha=0.05, runs=40_000):
    """Share of simulated experiments, of sd 1, whose t test finds the effect."""
    draws = np.random.default_rng(7).normal(effect, 1, (runs, num_pairs))
    return (stats.ttest_1samp(draws, 0, axis=1).pvalue < alpha).mean()


def test_paired_by_hand():
    estimate = paired([71, 73, 72], [70, 70, 70])  # differences 1, 3, 2: their sd is 1
    half = t_of_2(0.975) / math.sqrt(3)
    assert (estimate.effect, estimate.num_pairs, estimate.sd) == (2, 3, 1)
    assert (estimate.low, estimate.high) == pytest.approx((2 - half, 2 + half))
    assert estimate.correlation is None
    assert estimate.bca is None
    assert paired([1, 2, 3], [2, 4, 3]).correlation == pytest.approx(0.5)
    assert paired([1, 2, 3, 4, 5], [0, 0, 0, 0, 0]).mde == pytest.approx(math.sqrt(2.5) * 1.682, rel=1e-4)


@settings(deadline=None)  # the first example imports statsmodels
@given(PAIRS)
def test_paired_agrees_with_scipy_and_swapping_sides_negates_it(pairs):
    plus, minus = zip(*pairs, strict=True)
    assume(len({a - b for a, b in pairs}) > 1)
    one, other = paired(plus, minus), paired(minus, plus)
    assert (one.low, one.high) == pytest.approx(tuple(stats.ttest_rel(plus, minus).confidence_interval(0.95)))
    assert (other.effect, other.low, other.high) == pytest.approx((-one.effect, -one.high, -one.low))
    assert (other.sd, other.mde, other.correlation) == pytest.approx((one.sd, one.mde, one.correlation))


@pytest.mark.parametrize("num_pairs", [2, 5, 30])
def test_constant_differences(num_pairs):
    minus = [70 + 0.1 * i for i in range(num_pairs)]
    estimate = paired([value + 1.1 for value in minus], minus)  # they differ by rounding
    assert estimate.effect == pytest.approx(1.1)
    assert estimate.low == estimate.high == estimate.effect
    assert estimate.sd == estimate.mde == 0
    assert estimate.correlation == pytest.approx(1)
    assert estimate.bca == (None if num_pairs < 30 else (estimate.effect, estimate.effect))


def test_small_differences_are_not_taken_for_rounding():
    # 70.01 against 70: one image of 10,000.
    assert paired([70.01, 70, 70], [70, 70, 70]).sd == pytest.approx(0.01 / math.sqrt(3))


def test_bca_agrees_with_its_definition():
    plus = np.random.default_rng(3).exponential(size=30) ** 2  # skewed, so that all corrections matter
    assert paired(plus[:29], np.zeros(29)).bca is None
    resampled = np.random.default_rng(4).choice(plus, (100_000, 30)).mean(axis=1)
    left_out = [np.delete(plus, i).mean() for i in range(30)]
    pull = np.mean(left_out) - left_out
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    bias = stats.norm.ppf((resampled < plus.mean()).mean())
    z = bias + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(resampled, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    plain = np.quantile(resampled, [0.025, 0.975])
    bca = paired(plus, np.zeros(30)).bca
    assert bca == pytest.approx(tuple(expected), abs=0.03 * (expected[1] - expected[0]))
    assert plain[1] < expected[1] - 0.1 * (expected[1] - expected[0])  # the test can tell them apart
    assert bca == paired(plus, np.zeros(30)).bca


@pytest.mark.parametrize(("num_pairs", "published"), [(5, 1.68), (10, 1.00), (20, 0.66)])
def test_minimum_detectable_effect(num_pairs, published):
    effect = minimum_detectable_effect(1, num_pairs)
    assert effect == pytest.approx(published, abs=0.005)
    assert found(effect, num_pairs) == pytest.approx(0.8, abs=0.008)
    assert minimum_detectable_effect(3.5, num_pairs) == pytest.approx(3.5 * effect)


@pytest.mark.parametrize(("num_pairs", "power", "alpha"), [(2, 0.8, 0.05), (2, 0.9, 0.05), (3, 0.8, 0.01)])
def test_minimum_detectable_effect_where_the_two_sided_solver_fails(num_pairs, power, alpha):
    effect = minimum_detectable_effect(1, num_pairs, power, alpha)
    assert found(effect, num_pairs, alpha) == pytest.approx(power, abs=0.008)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [((-1, 5), "sd"), ((math.nan, 5), "sd"), ((1, 1), "num_pairs"), ((1, 5, 1), "power"), ((1, 5, 0.8, 0.9), "alpha")],
)
def test_minimum_detectable_effect_refuses(arguments, field):
    with pytest.raises(ValueError, match=rf"{field}=.*must be"):
        minimum_detectable_effect(*arguments)


def test_equivalence_by_hand():
    test = equivalence([71, 73, 72], [70, 70, 70], margin=4)
    t = (4 - 2) * math.sqrt(3)
    assert test.p == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t**2)))  # Student's t with 2 degrees of freedom
    half = t_of_2(0.95) / math.sqrt(3)
    assert (test.effect, test.low, test.high) == pytest.approx((2, 2 - half, 2 + half))
    assert test.equivalent
    assert not equivalence([71, 73, 72], [70, 70, 70], margin=2 + half - 0.01).equivalent
    assert equivalence([71, 73, 72], [70, 70, 70], margin=2 + half + 0.01).equivalent


@settings(deadline=None)  # the first example imports statsmodels
@given(PAIRS, st.floats(0.1, 6))
def test_equivalent_is_the_interval_inside_the_margin(pairs, margin):
    test = equivalence(*zip(*pairs, strict=True), margin)
    furthest = max(-test.low, test.high)
    assume(abs(furthest - margin) > 1e-6)
    assert test.equivalent == (furthest < margin) == (test.p < 0.05)


def test_equivalence_of_constant_differences():
    assert equivalence([2, 3], [1, 2], 1.5).p == 0
    assert equivalence([2, 3], [1, 2], 1).p == equivalence([1, 2], [2, 3], 0.5).p == 1


@pytest.mark.parametrize("margin", [0, -1, math.nan, math.inf])
def test_equivalence_refuses_margins(margin):
    with pytest.raises(ValueError, match=r"margin=.*above 0"):
        equivalence([1, 2], [1, 2], margin)


def test_rank_correlation():
    assert rank_correlation([1, 2, 3, 4], [10, 300, 20, 4000]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert rank_correlation([1, 2, 3], [-1, -10, -11]) == pytest.approx(-1)
    assert rank_correlation([5, 5, 5], [1, 2, 3]) == rank_correlation([1, 2, 3], [5, 5, 5]) == 0.0


@given(st.lists(st.tuples(*[st.integers(-5, 5)] * 3), min_size=4, max_size=12))
def test_partial_rank_correlation_is_the_closed_formula(rows):
    x, y, z = zip(*rows, strict=True)
    xy, xz, yz = rank_correlation(x, y), rank_correlation(x, z), rank_correlation(y, z)
    assume(max(abs(xz), abs(yz)) < 1 - 1e-9)
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_rank_correlation(x, y, z) == pytest.approx(expected, abs=1e-9)


def test_partial_rank_correlation_at_its_ends():
    size = range(1, 400)
    assert partial_rank_correlation(size, [i**2 for i in size], [math.log(i) for i in size]) == 0.0  # nothing is left
    assert partial_rank_correlation([1, 2, 3, 4], [1, 3, 2, 4], [7, 7, 7, 7]) == pytest.approx(0.8)
    x, y, z = np.random.default_rng(0).normal(size=(3, 4000))
    assert rank_correlation(x + 2 * z, y + 2 * z) > 0.7  # a common cause alone
    assert abs(partial_rank_correlation(x + 2 * z, y + 2 * z, z)) < 0.1


def test_residual_variance_by_hand():
    assert residual_variance([1, 1, 4, 1, 1], window=3) == pytest.approx(9 / 5)
    assert residual_variance([5, 1, 5, 1], window=3) == pytest.approx((0 + 16 + 16 + 0) / 4)  # the ends are their own


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60))
def test_residual_variance_is_its_slow_version_and_ignores_trends(losses):
    padded = [losses[0]] * 10 + losses + [losses[-1]] * 10
    medians = [standard.median(padded[i : i + 21]) for i in range(len(losses))]
    expected = sum((a - b) ** 2 for a, b in zip(losses, medians, strict=True)) / len(losses)
    assert residual_variance(losses) == pytest.approx(expected)
    assert residual_variance(sorted(losses)) == 0


@pytest.mark.parametrize("window", [20, 1, 0, -3])
def test_residual_variance_refuses_windows(window):
    with pytest.raises(ValueError, match=rf"window={window}: must be odd"):
        residual_variance([1, 2, 3], window)


def test_order_reversals_by_hand():
    assert order_reversals([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert order_reversals([1, 2, 3, 4], [4, 3, 2, 1]) == 1
    assert order_reversals([1, 1, 2], [2, 1, 1]) == pytest.approx(1 / 3)


@given(PAIRS)
def test_order_reversals_is_its_slow_version(pairs):
    opposite = [(a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(pairs, 2)]
    assert order_reversals(*zip(*pairs, strict=True)) == pytest.approx(sum(opposite) / len(opposite))


def test_order_reversals_is_kendalls_tau_without_ties():
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert order_reversals(x, y) == pytest.approx((1 - stats.kendalltau(x, y).statistic) / 2)


@pytest.mark.parametrize("function", [paired, rank_correlation, order_reversals, lambda *xy: equivalence(*xy, 1)])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1], [1], r"2 values or more"),
        ([], [], r"2 values or more"),
        ([[1, 2], [3, 4]], [1, 2], r"one-dimensional"),
        ([1, 2, 3], [1, 2], r"has 2 values; must have as many .* 3"),
        ([1, 2], [1, math.nan], r"\[1\]=nan: must be a finite number"),
        ([math.inf, 2], [1, 2], r"\[0\]=inf: must be a finite number"),
    ],
)
def test_bad_samples_are_refused(function, x, y, message):
    with pytest.raises(ValueError, match=message):
        function(x, y)
