"""Mean over seeds and its t interval."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit  # scipy.stats has the same function, and takes a second to import

ROUNDING = 1e-9  # up to this share of the values, their range is rounding; single precision resolves 6e-8


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and the ends of its 95 % t interval; of one seed, its value three times.

    Raises:
        ValueError: no values, or one that is NaN or infinite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values={values.tolist()}: must be finite numbers, one or more")
    if len(values) < 2:
        return values[0], values[0], values[0]
    mean = float(values.mean())
    return mean, *t_interval(mean, deviation(values, abs(values).max()), len(values), 0.95)


def t_interval(mean: float, sd: float, num: int, level: float) -> tuple[float, float]:
    """Lower and upper end of the two-sided t interval of a mean of `num` values with sample deviation `sd`."""
    half = float(stdtrit(num - 1, (1 + level) / 2)) * sd / num**0.5
    return mean - half, mean + half


def deviation(values: np.ndarray, scale: float) -> float:
    """Sample standard deviation; 0 if the values are `flat`."""
    return 0.0 if flat(values, scale) else float(values.std(ddof=1))


def flat(values: np.ndarray, scale: float) -> bool:
    """Tell whether values differ by no more than the rounding error of numbers as large as `scale`."""
    return bool(np.ptp(values) <= ROUNDING * scale)
