"""Fits of five curves to accuracy over the pruning rate: is a - b * exp(c * s) the best of them?

Rates s are shares pruned, 0 to 1; values are in percent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, log

import numpy as np
from scipy.optimize import least_squares, lsq_linear
from scipy.special import expit

from midstate.common.correlations import samples

# Squared points. Accuracy comes in steps of .01 points, so a smaller residual sum is an exact fit. Without this
# lower bound its logarithm would be minus infinity, or rank exact fits by their rounding errors.
EXACT = 1e-12
NEAR_FLOOR = 2.0  # points; values nearer to the floor tell little of the curve above it
_ONE_BEND = ((0.01, 200.0),), (np.geomspace(0.01, 200, 100),)  # from nearly straight (or a step at 0) to a cliff at 1


@dataclass(frozen=True)
class Shape:
    """A curve that is linear in its first parameters and nonlinear in the others, the bends."""

    columns: Callable[..., list[np.ndarray]]  # (s, *bends): the column that each linear parameter multiplies
    lowest: tuple[float, ...]  # lower bounds of the linear parameters
    bounds: tuple[tuple[float, float], ...] = ()  # lower and upper bound of each bend
    grid: tuple[Sequence[float], ...] = ()  # start values of each bend


SHAPES = {
    "exponential": Shape(lambda s, c: [np.ones_like(s), -np.exp(c * s)], (-inf, 0), *_ONE_BEND),
    "linear": Shape(lambda s: [np.ones_like(s), s], (-inf, -inf)),
    "quadratic": Shape(lambda s: [np.ones_like(s), s, s**2], (-inf, -inf, -inf)),
    "power": Shape(lambda s, c: [np.ones_like(s), -(s**c)], (-inf, 0), *_ONE_BEND),
    "logistic": Shape(
        lambda s, k, s0: [expit(-k * (s - s0))],
        (0,),
        ((0.1, 200.0), (0.0, 10.0)),
        # s0 is dense near 1, where most rates lie: a coarser grid ends in local minima of noisy curves.
        (np.geomspace(0.1, 200, 15), [*(1.2 - np.geomspace(0.12, 1.2, 50)), 1.5, 2, 3, 5, 10]),
    ),
}


@dataclass(frozen=True)
class Fit:
    """A shape with its parameters, in the order of the formula in `fit_shapes`."""

    name: str
    parameters: tuple[float, ...]
    residual_sum: float  # of squares, points squared
    aicc: float


def aicc(residual_sum: float, num_points: int, num_parameters: int) -> float:
    """Akaike's criterion for small samples (Hurvich and Tsai 1989), of a least-squares fit; lower is better.

    n * ln(RSS / n) + 2k + 2k(k + 1) / (n - k - 1), where k counts the parameters and the variance.

    Raises:
        ValueError: too few points for so many parameters (n - k - 1 not above 0), or a negative sum.
    """
    k = num_parameters + 1
    if num_points - k - 1 <= 0:
        raise ValueError(f"num_points={num_points}: {num_parameters} parameters need {k + 2} points or more")
    if not residual_sum >= 0:
        raise ValueError(f"residual_sum={residual_sum!r}: must be 0 or more")
    fit = num_points * log(max(residual_sum, EXACT) / num_points)
    return fit + 2 * k + 2 * k * (k + 1) / (num_points - k - 1)


def fit_shapes(rates: Sequence[float], values: Sequence[float], floor: float | None = None) -> dict[str, Fit]:
    """Fit every shape by least squares; the same result at every call.

    Exponential a - b * exp(c * s), linear a + b * s, quadratic a + b * s + c * s**2, power a - b * s**c,
    logistic a / (1 + exp(k * (s - s0))). Exponential, power and logistic cannot rise: b >= 0 and
    .01 <= c <= 200; a >= 0, .1 <= k <= 200 and 0 <= s0 <= 10.

    Args:
        rates: pruning rates in 0..1, (n,), in any order; points of several seeds may be pooled.
        values: accuracy in percent, (n,).
        floor: accuracy that no shape goes below, such as chance: max(floor, shape) is fitted; None: none.

    Raises:
        ValueError: fewer than 6 points or 4 different rates, rates outside 0..1, lengths that differ, NaN.
    """
    rates, values = samples(6, rates=rates, values=values)
    _check_rates(rates)
    if len(np.unique(rates)) < 4:
        raise ValueError(f"rates={rates.tolist()}: must have 4 different values or more, or several shapes fit exactly")
    fits = {name: _fit(name, shape, rates, values) for name, shape in SHAPES.items()}
    if floor is None:
        return fits
    above = values > floor + NEAR_FLOOR
    starts = [fits]
    if len(np.unique(rates[above])) >= 4:
        starts.append({name: _fit(name, shape, rates[above], values[above]) for name, shape in SHAPES.items()})
    return {
        name: _fit_above(name, shape, rates, values, floor, [start[name].parameters for start in starts])
        for name, shape in SHAPES.items()
    }


def best_margin(fits: dict[str, Fit]) -> tuple[str, float]:
    """Name the strongest rival of the exponential and its AICc minus the exponential's: above 0, no rival is better."""
    rival = min((fit for fit in fits.values() if fit.name != "exponential"), key=lambda fit: fit.aicc)
    return rival.name, rival.aicc - fits["exponential"].aicc


def second_differences(rates: Sequence[float], values: Sequence[float]) -> list[float]:
    """Divided second differences f[s0, s1, s2] of (n,) values, n - 2 numbers in percent; negative where concave.

    They estimate half the second derivative, exactly for a parabola on any grid.

    Raises:
        ValueError: fewer than 3 points, rates that do not increase or lie outside 0..1, lengths that differ, NaN.
    """
    rates, values = samples(3, rates=rates, values=values)
    _check_rates(rates)
    if (np.diff(rates) <= 0).any():
        raise ValueError(f"rates={rates.tolist()}: must increase strictly")
    return (np.diff(np.diff(values) / np.diff(rates)) / (rates[2:] - rates[:-2])).tolist()


def _check_rates(rates: np.ndarray) -> None:
    if rates.min() < 0 or rates.max() > 1:
        raise ValueError(f"rates={rates.tolist()}: must lie from 0 to 1")


def _fit(name: str, shape: Shape, rates: np.ndarray, values: np.ndarray) -> Fit:
    """Optimise the bends alone, each with its best linear parameters (variable projection, Golub and Pereyra 1973)."""

    def residuals(bends: Sequence[float]) -> np.ndarray:
        return _project(shape, rates, values, bends)[1] - values

    bends = _start(shape, rates, values)
    if bends:
        # Not `curve_fit`, which calls this and raises where a search runs long in a flat valley: the parameters
        # found by then are as good. "dogbox" because "trf" creeps where the valley of k and s0 meets a bound.
        bounds = tuple(zip(*shape.bounds, strict=True))
        bends = least_squares(residuals, bends, bounds=bounds, method="dogbox", ftol=1e-12, xtol=1e-12).x
    parameters = (*_project(shape, rates, values, bends)[0].tolist(), *map(float, bends))
    total = float((residuals(bends) ** 2).sum())
    return Fit(name, parameters, total, aicc(total, len(rates), len(parameters)))


def _start(shape: Shape, rates: np.ndarray, values: np.ndarray) -> tuple[float, ...]:
    """The bends of the grid with the smallest residual sum; solved in one batch, as a loop takes seconds."""
    grid = list(product(*shape.grid))
    design = np.stack([np.column_stack(shape.columns(rates, *bends)) for bends in grid])
    basis, triangle = np.linalg.qr(design)  # stable for columns of any size
    along = values @ basis
    if shape.grid:  # only the last linear parameter is bounded, by 0, its best value where it would be below
        along[along[:, -1] * triangle[:, -1, -1] < shape.lowest[-1], -1] = 0
    curves = (basis @ along[..., None])[..., 0]
    return grid[int(((curves - values) ** 2).sum(axis=1).argmin())]


def _fit_above(
    name: str,
    shape: Shape,
    rates: np.ndarray,
    values: np.ndarray,
    floor: float,
    starts: Sequence[Sequence[float]],
) -> Fit:
    """Optimise all parameters at once, as max(floor, shape) is linear in none; keep the best of several starts."""
    lowest = [*shape.lowest, *(low for low, _ in shape.bounds)]
    highest = [*([inf] * len(shape.lowest)), *(high for _, high in shape.bounds)]

    def residuals(parameters: np.ndarray) -> np.ndarray:
        return np.maximum(floor, _curve(shape, rates, parameters)) - values

    found = []
    for start in starts:
        inside = np.clip(start, np.array(lowest) + 1e-9, np.array(highest) - 1e-9)
        for first in (np.asarray(start), least_squares(residuals, inside, bounds=(lowest, highest), x_scale="jac").x):
            found.append((float((residuals(first) ** 2).sum()), tuple(map(float, first))))
    total, parameters = min(found)
    return Fit(name, parameters, total, aicc(total, len(rates), len(parameters)))


def _curve(shape: Shape, rates: np.ndarray, parameters: Sequence[float]) -> np.ndarray:
    linear = len(shape.lowest)
    return np.column_stack(shape.columns(rates, *parameters[linear:])) @ np.asarray(parameters[:linear])


def _project(
    shape: Shape, rates: np.ndarray, values: np.ndarray, bends: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best linear parameters for given bends, and the curve, (n,)."""
    design = np.column_stack(shape.columns(rates, *bends))
    # Columns are scaled to one size: beside exp(200 s) a column of ones would be lost.
    size = np.maximum(abs(design).max(axis=0), np.finfo(np.float64).tiny)
    linear = lsq_linear(design / size, values, bounds=(shape.lowest, inf)).x
    return linear / size, design / size @ linear


def predict(fit: Fit, rates: Sequence[float], floor: float | None = None) -> np.ndarray:
    """Accuracy of a fitted shape at rates (n,), in percent; the floor is that of the fit."""
    curve = _curve(SHAPES[fit.name], np.asarray(rates, dtype=np.float64), fit.parameters)
    return curve if floor is None else np.maximum(floor, curve)
