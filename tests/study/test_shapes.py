import math
from itertools import product

import numpy as np
import pytest

from midstate.study import shapes
from midstate.study.shapes import Fit, aicc, best_margin, fit_shapes, second_differences

RATES = np.array([0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99])
NOISE = 0.2  # points: what a seed does to an accuracy
FORMULAS = {
    "exponential": lambda s, a, b, c: a - b * np.exp(c * s),
    "linear": lambda s, a, b: a + b * s,
    "quadratic": lambda s, a, b, c: a + b * s + c * s**2,
    "power": lambda s, a, b, c: a - b * s**c,
    "logistic": lambda s, a, k, s0: a / (1 + np.exp(k * (s - s0))),
}
TRUTHS = {
    "exponential": (94, 0.05, 7),
    "linear": (90, -30),
    "quadratic": (80, 20, -60),
    "power": (92, 40, 6),
    "logistic": (93, 20, 0.85),
}
# Five standard errors of the fit to 12 points, from 60 repetitions.
NEAR = {
    "exponential": (0.6, 0.016, 0.3),
    "linear": (0.75, 1),
    "quadratic": (0.9, 4, 3.7),
    "power": (0.6, 0.8, 0.35),
    "logistic": (0.5, 0.4, 0.0016),
}


def noisy(name, seeds):
    """Curves of several seeds, (seeds, rates)."""
    curve = FORMULAS[name](RATES, *TRUTHS[name])
    return curve + np.random.default_rng(0).normal(0, NOISE, (seeds, len(RATES)))


def best(fits):
    return min(fits, key=lambda name: fits[name].aicc)


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("name", TRUTHS)
def test_each_curve_is_recovered(name, seeds):
    values = noisy(name, seeds)
    fits = fit_shapes(np.tile(RATES, seeds), values.ravel())
    assert best(fits) == name
    errors = np.abs(np.subtract(fits[name].parameters, TRUTHS[name]))
    assert (errors < np.divide(NEAR[name], math.sqrt(seeds))).all()
    # Least squares: no worse than the truth.
    assert fits[name].residual_sum <= ((values - FORMULAS[name](RATES, *TRUTHS[name])) ** 2).sum()
    rival, margin = best_margin(fits)
    assert (margin > 0) == (name == "exponential")
    assert (rival == name) == (name != "exponential")


@pytest.mark.parametrize("name", TRUTHS)
def test_parameters_residual_sum_and_criterion_belong_together(name):
    values = noisy(name, 1)[0]
    for shape, fit in fit_shapes(RATES, values).items():
        assert fit.name == shape
        residuals = values - FORMULAS[shape](RATES, *fit.parameters)
        assert fit.residual_sum == pytest.approx((residuals**2).sum())
        assert fit.aicc == pytest.approx(aicc(fit.residual_sum, 12, len(fit.parameters)))


@pytest.mark.parametrize("name", TRUTHS)
def test_pooled_seeds_have_the_curve_of_their_mean(name):
    values = noisy(name, 3)
    pooled = fit_shapes(np.tile(RATES, 3), values.ravel())[name]
    mean = fit_shapes(RATES, values.mean(axis=0))[name]
    assert pooled.parameters == pytest.approx(mean.parameters, rel=1e-4)
    within = ((values - values.mean(axis=0)) ** 2).sum()
    assert pooled.residual_sum == pytest.approx(within + 3 * mean.residual_sum)


def rough(kind, rng):
    """Values that no shape fits, so that least squares has several local minima."""
    noise = rng.normal(0, 20, len(RATES))
    return {
        "noise": 50 + 2 * noise,
        "step": np.where(rng.choice(RATES[3:]) > RATES, 80, 10) + noise,
        "fall": np.sort(rng.uniform(0, 100, len(RATES)))[::-1] + noise / 2,
        "spike": np.eye(len(RATES))[rng.integers(len(RATES))],
    }[kind]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["noise", "step", "fall", "spike"])
def test_no_fit_of_rough_values_is_worse_than_a_slow_search(kind, seed):
    values = rough(kind, np.random.default_rng(seed))
    fits = fit_shapes(RATES, values)
    for degree, name in ((1, "linear"), (2, "quadratic")):
        expected = ((np.polyval(np.polyfit(RATES, values, degree), RATES) - values) ** 2).sum()
        assert fits[name].residual_sum == pytest.approx(expected)
    total = ((values - np.mean(values)) ** 2).sum()
    for name, bend in (("exponential", lambda c: np.exp(c * (RATES - 1))), ("power", lambda c: RATES**c)):
        for c in np.geomspace(0.011, 190, 100):
            slope, offset = np.polyfit(bend(c), values, 1)
            slow = ((offset + slope * bend(c) - values) ** 2).sum() if slope < 0 else total
            assert fits[name].residual_sum <= slow * (1 + 1e-6)
        assert fits[name].parameters[1] >= 0
    for k, s0 in product(np.geomspace(0.11, 190, 40), np.linspace(0.01, 1.5, 100)):
        curve = FORMULAS["logistic"](RATES, 1, k, s0)
        slow = ((max(0, curve @ values / (curve @ curve)) * curve - values) ** 2).sum()
        assert fits["logistic"].residual_sum <= slow * (1 + 1e-6)


def test_a_cliff_and_a_plateau_are_fitted_without_overflow():
    cliff = fit_shapes(RATES, [95] * 11 + [10])
    assert cliff["exponential"].residual_sum < 0.02 * 85**2  # c at its bound: exp(-2) of the drop is at .98 already
    assert all(math.isfinite(number) for fit in cliff.values() for number in (*fit.parameters, fit.aicc))
    plateau = fit_shapes(RATES, [50] * 12)
    assert best(plateau) == "linear"  # all are exact; it has the fewest parameters
    assert all(fit.residual_sum < 1e-20 for fit in plateau.values())


def test_falling_shapes_do_not_follow_a_rise():
    fits = fit_shapes(RATES, 20 + 70 * RATES)
    total = ((70 * (RATES - RATES.mean())) ** 2).sum()
    for name in ("exponential", "power"):
        assert fits[name].parameters[:2] == pytest.approx((20 + 70 * RATES.mean(), 0))
        assert fits[name].residual_sum == pytest.approx(total)
    assert fits["logistic"].residual_sum > 0.99 * total


def test_order_of_points_does_not_matter_and_repeats_are_equal():
    values = noisy("exponential", 1)[0]
    fits = fit_shapes(RATES, values)
    assert fits == fit_shapes(RATES, values)
    for name, fit in fit_shapes(RATES[::-1], values[::-1]).items():
        assert fit.parameters == pytest.approx(fits[name].parameters, rel=1e-4)


def test_aicc_by_hand():
    assert aicc(12, 12, 3) == pytest.approx(2 * 4 + 2 * 4 * 5 / 7)
    assert aicc(12 * math.e, 12, 3) == pytest.approx(12 + 2 * 4 + 2 * 4 * 5 / 7)
    assert aicc(6, 6, 3) == pytest.approx(48)
    assert aicc(0, 12, 2) == aicc(1e-25, 12, 2) < aicc(0, 12, 3) < aicc(1e-3, 12, 2)


def test_aicc_refuses():
    with pytest.raises(ValueError, match="num_points=5: 3 parameters need 6 points"):
        aicc(1, 5, 3)
    for bad in (-1, math.nan):
        with pytest.raises(ValueError, match=r"residual_sum=.*must be 0 or more"):
            aicc(bad, 12, 3)


def test_best_margin_by_hand():
    criteria = {"exponential": 3, "linear": 8, "power": 5, "logistic": 7}
    fits = {name: Fit(name, (), 0, value) for name, value in criteria.items()}
    assert best_margin(fits) == ("power", 2)
    fits["linear"] = Fit("linear", (), 0, -1)
    assert best_margin(fits) == ("linear", -4)


def test_second_differences():
    # Slopes 10, 0 and -20; the spans of two neighbours are 0.3 and 0.4.
    assert second_differences([0, 0.1, 0.3, 0.5], [1, 2, 2, -2]) == pytest.approx([-10 / 0.3, -20 / 0.4])
    parabola = FORMULAS["quadratic"](RATES, *TRUTHS["quadratic"])
    assert second_differences(RATES, parabola) == pytest.approx([-60] * 10)
    assert second_differences(RATES, 90 - 30 * RATES) == pytest.approx([0] * 10, abs=1e-8)
    assert max(second_differences(RATES, FORMULAS["exponential"](RATES, *TRUTHS["exponential"]))) < 0
    logistic = second_differences(RATES, FORMULAS["logistic"](RATES, 93, 20, 0.5))
    assert logistic[0] < 0 < logistic[-1]  # its inflection is at 0.5


@pytest.mark.parametrize(
    ("rates", "values", "message"),
    [
        ([0, 0.2, 0.2, 0.5], [1, 2, 3, 4], "increase strictly"),
        ([0.5, 0.2, 0.1], [1, 2, 3], "increase strictly"),
        ([0, 50, 90], [1, 2, 3], "from 0 to 1"),
        ([0, 0.5], [1, 2], "3 values or more"),
        ([0, 0.5, 0.7, 1], [1, 2, 3], "as many"),
        ([0, 0.5, 1], [1, math.nan, 3], r"values\[1\]=nan"),
    ],
)
def test_second_differences_refuses(rates, values, message):
    with pytest.raises(ValueError, match=message):
        second_differences(rates, values)


@pytest.mark.parametrize(
    ("rates", "values", "message"),
    [
        ([0, 0.2, 0.4, 0.6, 0.8], [1] * 5, "6 values or more"),
        ([0, 0.5, 1] * 3, [1] * 9, "4 different"),
        ([0, 10, 20, 30, 40, 50], [1] * 6, "from 0 to 1"),
        (RATES - 0.01, [1] * 12, "from 0 to 1"),
        (RATES, [1] * 11, "as many"),
        (RATES, [1] * 11 + [math.inf], r"values\[11\]=inf"),
    ],
)
def test_fit_shapes_refuses(rates, values, message):
    with pytest.raises(ValueError, match=message):
        fit_shapes(rates, values)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("exponential", (88, 0.002, 10.5)), ("logistic", (88, 30, 0.95)), ("linear", (150, -150))],
)
def test_above_a_floor_the_shape_that_made_the_points_fits_them_best(name, parameters):
    """What lies at chance says nothing of the curve above it."""
    rates = np.tile([0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99], 4)
    truth = shapes.predict(shapes.Fit(name, parameters, 0, 0), rates, 10.0)
    assert truth.min() >= 10
    fits = shapes.fit_shapes(rates, truth + np.random.default_rng(0).normal(0, 0.5, rates.shape), 10.0)
    assert min(fits.values(), key=lambda fit: fit.aicc).name == name
    assert fits[name].residual_sum / len(rates) == pytest.approx(0.25, rel=0.5)


@pytest.mark.parametrize("name", ["exponential", "power", "logistic"])
@pytest.mark.parametrize("values", ["falls", "rises"])  # what rises wants the linear parameter below its bound
def test_the_grid_is_searched_as_one_by_one(name, values):
    values = noisy("exponential", 1)[0][:: 1 if values == "falls" else -1]
    shape = shapes.SHAPES[name]

    def left(bends):
        return ((shapes._project(shape, RATES, values, bends)[1] - values) ** 2).sum()

    least = min(left(bends) for bends in product(*shape.grid))
    assert left(shapes._start(shape, RATES, values)) == pytest.approx(least, rel=1e-9)
