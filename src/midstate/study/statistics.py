"""Statistics of paired runs, of rankings and of loss curves.

All sequences are one-dimensional and finite; results are plain floats in the unit of what was passed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy import ndimage, stats

from midstate.common.correlations import samples
from midstate.common.intervals import deviation, flat, t_interval

BCA_PAIRS = 30  # fewer are too few for the bootstrap: its intervals then cover less than they claim


@dataclass(frozen=True)
class Estimate:
    """A mean paired difference with its interval and minimum detectable effect, in the unit of the values."""

    effect: float  # mean of the differences
    low: float  # 95 % paired t interval
    high: float
    num_pairs: int
    sd: float  # sample standard deviation of the differences
    correlation: float | None  # Pearson's, of the two sides; None where one side is constant
    mde: float  # minimum detectable effect: 80 % power, two-sided alpha .05
    bca: tuple[float, float] | None  # 95 % BCa bootstrap interval; None below 30 pairs


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests (TOST, Schuirmann 1987) of a mean paired difference against +-margin."""

    effect: float
    low: float  # 90 % interval: inside +-margin exactly where p < .05
    high: float
    p: float
    margin: float
    equivalent: bool  # p < .05


def paired(plus: Sequence[float], minus: Sequence[float]) -> Estimate:
    """Estimate the mean of plus - minus: values of the same seeds in the same order, (n,) each.

    Raises:
        ValueError: fewer than 2 pairs, lengths that differ, NaN or infinite values.
    """
    plus, minus = samples(2, plus=plus, minus=minus)
    difference, effect, sd = _difference(plus, minus)
    low, high = t_interval(effect, sd, len(difference), 0.95)
    constant = flat(plus, abs(plus).max()) or flat(minus, abs(minus).max())
    correlation = None if constant else float(stats.pearsonr(plus, minus).statistic)
    mde = minimum_detectable_effect(sd, len(difference))
    return Estimate(effect, low, high, len(difference), sd, correlation, mde, _bca(difference, effect, sd))


def minimum_detectable_effect(sd: float, num_pairs: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true mean difference that a paired two-sided t test finds with `power`, in the unit of `sd`.

    `sd` is that of the differences. Raises ValueError unless sd >= 0, num_pairs >= 2, 0 < alpha < power < 1.
    """
    if not 0 <= sd < np.inf:
        raise ValueError(f"sd={sd!r}: must be a finite number, 0 or more")
    if not num_pairs >= 2:
        raise ValueError(f"num_pairs={num_pairs!r}: must be 2 or more")
    if not 0 < alpha < power < 1:
        raise ValueError(f"power={power!r}, alpha={alpha!r}: must be 0 < alpha < power < 1")
    from statsmodels.stats.power import TTestPower

    # One-sided at alpha / 2: the other tail adds nothing (1e-6 at 5 pairs), and with it, at 2 or 3 pairs,
    # scipy's noncentral t is NaN for some effects, so that the solver returns a wrong number without a warning.
    return float(sd * TTestPower().solve_power(nobs=num_pairs, alpha=alpha / 2, power=power, alternative="larger"))


def seeds_needed(sd: float, effect: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Fewest pairs with which a paired two-sided t test finds a true mean difference `effect` with `power`.

    `sd` is that of the differences, in the unit of `effect`. Raises ValueError unless both are above 0.
    """
    if not (sd > 0 and effect > 0):
        raise ValueError(f"sd={sd!r}, effect={effect!r}: both must be above 0")
    if minimum_detectable_effect(sd, 2, power, alpha) <= effect:
        return 2  # below two pairs there is nothing to solve for
    from statsmodels.stats.power import TTestPower

    return ceil(TTestPower().solve_power(effect_size=effect / sd, alpha=alpha / 2, power=power, alternative="larger"))


def equivalence(plus: Sequence[float], minus: Sequence[float], margin: float) -> Equivalence:
    """Test whether the mean of plus - minus lies within +-margin, the difference that begins to matter.

    Raises:
        ValueError: as `paired`, or a margin that is not above 0 or not finite.
    """
    if not 0 < margin < np.inf:
        raise ValueError(f"margin={margin!r}: must be a finite number above 0")
    from statsmodels.stats.weightstats import DescrStatsW

    difference, effect, sd = _difference(*samples(2, plus=plus, minus=minus))
    low, high = t_interval(effect, sd, len(difference), 0.9)
    # Without spread the test divides by zero; the effect is then known.
    p = float(DescrStatsW(difference).ttost_mean(-margin, margin)[0]) if sd else float(abs(effect) >= margin)
    return Equivalence(effect, low, high, p, float(margin), p < 0.05)


def residual_variance(losses: Sequence[float], window: int = 21) -> float:
    """Mean square of the losses, one a step, around their running median, in squared units of the loss.

    The first and the last loss are repeated beyond the ends. Raises ValueError unless `window` is odd and 3 or
    more, and for no losses or a value that is NaN or infinite.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window={window!r}: must be odd, 3 or more")
    (losses,) = samples(1, losses=losses)
    return float(np.mean((losses - ndimage.median_filter(losses, size=window, mode="nearest")) ** 2))


def order_reversals(x: Sequence[float], y: Sequence[float]) -> float:
    """Share of pairs, 0 to 1, that x orders strictly one way and y strictly the other; ties are no reversals.

    Without ties (1 - Kendall's tau) / 2. Raises ValueError as `samples`, for fewer than 2 values.
    """
    x, y = samples(2, x=x, y=y)
    opposite = np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y)) < 0
    return float(opposite.sum() / (len(x) * (len(x) - 1)))


def _difference(plus: np.ndarray, minus: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return plus - minus, (n,), its mean and its sample standard deviation, 0 where it is only rounding."""
    difference = plus - minus
    scale = max(abs(plus).max(), abs(minus).max())
    return difference, float(difference.mean()), deviation(difference, scale)


def _bca(difference: np.ndarray, effect: float, sd: float) -> tuple[float, float] | None:
    """Bias-corrected and accelerated interval (Efron 1987), the same at every call."""
    if len(difference) < BCA_PAIRS:
        return None
    if sd == 0:
        return effect, effect
    # `random_state`, not `rng`, which scipy knows from 1.15 on.
    drawn = stats.bootstrap((difference,), np.mean, method="BCa", random_state=np.random.default_rng(0))
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)
