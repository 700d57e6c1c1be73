"""From rows of runs to measured endpoints: aggregated within a seed, then compared over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np
import pandas as pd

from midstate.study import shapes, statistics
from midstate.study.endpoints import Endpoint

NUM_SYNTHETIC = 4  # synthetic curves of each shape
DAMAGED = 2.0  # points lost from which a pruning rate counts as damaged
FINETUNED = ("just_pruned", "recovered")  # columns of top-1 before and after finetuning


@dataclass(frozen=True)
class Measured:
    """The measured endpoint: effect with its 95 % interval over seeds."""

    effect: float
    low: float
    high: float
    seeds: int
    mde: float  # minimum detectable effect at 80 % power
    correlation: float | None = None  # of the pairs
    bca: tuple[float, float] | None = None
    sd: float = nan  # of the differences
    equivalent: bool | None = None  # result of an equivalence test
    seed_share: float | None = None  # test `shapes`: share of seeds with the exponential better by 2 AICc or more
    detail: str = ""  # further numbers, in words


def measure(endpoint: Endpoint, rows: pd.DataFrame) -> Measured | None:
    """Measure an endpoint on the rows of one cell; None where fewer than two seeds have every arm."""
    tables = {column: _by_seed(endpoint, rows, column) for column in _columns(endpoint)}
    if any(table is None or len(table) < 2 for table in tables.values()):
        return None
    if endpoint.test in _TABLES:
        return _TABLES[endpoint.test](endpoint, *tables.values())
    (values,) = tables.values()
    if endpoint.over:
        rates = np.array(list(endpoint.over.values()))
        return _CURVES[endpoint.test](rates, values[list(endpoint.over)].to_numpy(), endpoint.floor)
    if endpoint.pairs:
        return _share_within(endpoint, values)
    weights = pd.Series(endpoint.weights)
    plus, minus = (values[list(side.index)] @ side.abs() for side in (weights[weights > 0], weights[weights < 0]))
    measured = estimated(plus, minus)
    if endpoint.test != "equivalence":
        return measured
    bound = margin(endpoint, rows)
    if not bound > 0:
        return replace(measured, detail="no margin: the difference that bounds it is too small to be shared")
    tost = statistics.equivalence(plus, minus, bound)
    detail = f"TOST p = {tost.p:.2g}, 90 % interval {tost.low:+.2f} to {tost.high:+.2f}, margin {bound:.2f}"
    return replace(measured, equivalent=tost.equivalent, detail=detail)


def mean_of(endpoint: Endpoint, rows: pd.DataFrame) -> tuple[float, int]:
    """Effect of an endpoint and its number of seeds; NaN and 0 where it is not run."""
    measured = measure(endpoint, rows)
    return (nan, 0) if measured is None else (measured.effect, measured.seeds)


def _columns(endpoint: Endpoint) -> tuple[str, ...]:
    """The columns of runs.csv that an endpoint is made of."""
    if endpoint.test in ("recovered_share", "half_damage"):
        return FINETUNED
    return (endpoint.value, endpoint.against) if endpoint.against else (endpoint.value,)


def _by_seed(endpoint: Endpoint, rows: pd.DataFrame, column: str) -> pd.DataFrame | None:
    """One column of the seeds that have every arm: a row a seed, a column an arm; None: there is no such column."""
    if column not in rows:
        return None
    needed = endpoint.arms
    values = rows[rows.arm.isin(needed)].pivot(index="seed", columns="arm", values=column)
    return values.reindex(columns=needed).dropna()


def estimated(plus: Sequence[float], minus: Sequence[float]) -> Measured:
    """The mean paired difference with its interval."""
    estimate = statistics.paired(plus, minus)
    return Measured(
        estimate.effect,
        estimate.low,
        estimate.high,
        estimate.num_pairs,
        estimate.mde,
        estimate.correlation,
        estimate.bca,
        estimate.sd,
    )


def margin(endpoint: Endpoint, rows: pd.DataFrame) -> float:
    """Margin of an equivalence test: the SESOI, at most a share of another contrast; 0 if that is small or not run."""
    scale = endpoint.scaled_by
    if not scale:
        return float(endpoint.sesoi)
    other = measure(Endpoint("scale", endpoint.value, endpoint.unit, contrast=scale["contrast"]), rows)
    if other is None or other.effect < scale["at_least"]:
        return 0.0
    return float(min(endpoint.sesoi, scale["share"] * other.effect))


def _share_within(endpoint: Endpoint, values: pd.DataFrame) -> Measured:
    """Share of pairs of arms whose absolute mean difference is smaller than the SESOI."""
    means = [(values[arm] - values[other]).mean() for arm, other in endpoint.pairs.items()]
    share = sum(abs(mean) < endpoint.sesoi for mean in means) / len(means)
    above = sum(mean >= endpoint.sesoi for mean in means)
    detail = f"of {len(means)} cells {above} above, {len(means) - above - round(share * len(means))} below"
    return Measured(share, nan, nan, len(values), nan, detail=detail)


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slope of every row of y (seeds, arms) over the same row of x."""
    x = x - x.mean(axis=1, keepdims=True)
    return (x * y).sum(axis=1) / (x**2).sum(axis=1)


def _over_column(endpoint: Endpoint, values: pd.DataFrame, against: pd.DataFrame) -> Measured | None:
    """Slope, within a seed, of a value over the log2 of a measured column; both relative to the reference, if any."""
    arms, reference = list(endpoint.of), endpoint.reference
    values, against = values.align(against, join="inner", axis=0)
    y, x = values[arms].to_numpy(), against[arms].to_numpy() + endpoint.offset
    if reference:
        y = y - values[[reference]].to_numpy()
        x = x / against[[reference]].to_numpy()
    if len(x) < 2:
        return None
    x = np.log2(x)
    spread = 2 ** (x.mean(axis=0).max() - x.mean(axis=0).min())
    slopes = _slopes(x, y)
    detail = f"{len(arms)} arms, {endpoint.against} spans a factor of {spread:.2f}"
    return replace(estimated(slopes, np.zeros(len(slopes))), detail=detail)


def _shares(endpoint: Endpoint, just_pruned: pd.DataFrame, recovered: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Damage in points and the share of it that is recovered, (seeds, rates)."""
    just_pruned, recovered = just_pruned.align(recovered, join="inner", axis=0)
    arms = list(endpoint.over)
    before = just_pruned[arms].to_numpy()
    damage = recovered[[endpoint.reference]].to_numpy() - before
    return damage, (recovered[arms].to_numpy() - before) / damage


def _recovered_share(endpoint: Endpoint, just_pruned: pd.DataFrame, recovered: pd.DataFrame) -> Measured:
    """Slope over rate of (after - just pruned) / (dense trained as long - just pruned)."""
    rates = np.array(list(endpoint.over.values()))
    _, shares = _shares(endpoint, just_pruned, recovered)
    slopes = _slopes(np.tile(rates, (len(shares), 1)), shares)
    means = ", ".join(f"{100 * rate:g} %: {share:.2f}" for rate, share in zip(rates, shares.mean(axis=0), strict=True))
    return replace(estimated(slopes, np.zeros(len(slopes))), detail=f"mean share recovered at {means}")


def _half_damage(endpoint: Endpoint, just_pruned: pd.DataFrame, recovered: pd.DataFrame) -> Measured:
    """Number of rates with damage on average; 0 unless their shares recovered lie on both sides of a half."""
    damage, shares = (each.mean(axis=0) for each in _shares(endpoint, just_pruned, recovered))
    damaged = damage >= DAMAGED
    found = shares[damaged]
    both = bool(len(found)) and found.min() < 0.5 < found.max()
    low, high = (float(found.min()), float(found.max())) if len(found) else (nan, nan)
    number = int(damaged.sum())
    detail = f"{number} rates with {DAMAGED:g} points of damage or more; shares recovered {low:.2f} to {high:.2f}"
    return Measured(number if both else 0, nan, nan, len(just_pruned), nan, detail=detail)


def _span(endpoint: Endpoint, values: pd.DataFrame) -> Measured:
    """Ratio of the largest to the smallest mean."""
    means = (values[list(endpoint.of)] + endpoint.offset).mean()
    return Measured(float(means.max() / means.min()), nan, nan, len(values), nan)


_TABLES: dict[str, Callable[..., Measured | None]] = {
    "slope": _over_column,
    "recovered_share": _recovered_share,
    "half_damage": _half_damage,
    "span": _span,
}


def _shapes(rates: np.ndarray, values: np.ndarray, floor: float | None) -> Measured:
    """AICc by which a - b * exp(c * s) is better than its best rival, all seeds pooled; values are (seeds, rates)."""
    rival, advantage = shapes.best_margin(shapes.fit_shapes(np.tile(rates, len(values)), values.ravel(), floor))
    alone = [shapes.best_margin(shapes.fit_shapes(rates, seed, floor))[1] for seed in values]
    share = sum(each >= 2 for each in alone) / len(alone)
    return Measured(
        advantage, nan, nan, len(values), nan, seed_share=share,
        detail=f"best rival: {rival}; better by 2 or more in {100 * share:.0f} % of the seeds",
    )  # fmt: skip


def _recovery(rates: np.ndarray, values: np.ndarray, floor: float | None) -> Measured:
    """Share of synthetic curves, of every shape and with the data's noise, whose own shape is found to be the best."""
    pooled = np.tile(rates, len(values))
    fits = shapes.fit_shapes(pooled, values.ravel(), floor)
    noise = (min(fit.residual_sum for fit in fits.values()) / values.size) ** 0.5
    draws = np.random.default_rng(0)
    found = []
    for name, fit in fits.items():
        for _ in range(NUM_SYNTHETIC):
            synthetic = shapes.predict(fit, pooled, floor) + draws.normal(0, noise, pooled.shape)
            refitted = shapes.fit_shapes(pooled, synthetic, floor)
            found.append(min(refitted.values(), key=lambda each: each.aicc).name == name)
    return Measured(sum(found) / len(found), nan, nan, len(values), nan)


def _concavity(rates: np.ndarray, values: np.ndarray, floor: float | None) -> Measured:
    """Share of inner rates at which a seed's curve is concave (second difference below 0), mean over seeds."""
    shares = [np.mean(np.array(shapes.second_differences(rates, seed)) < 0) for seed in values]
    return estimated(shares, np.zeros(len(shares)))


_CURVES = {"shapes": _shapes, "recovery": _recovery, "concavity": _concavity}


def role_swap(sensitivity: pd.DataFrame, before: str, after: str) -> Measured | None:
    """Share of layer pairs whose order of sensitivity reverses between two arms, same seeds (身份互换).

    Args:
        sensitivity: the rows of sensitivity.csv of one cell.
        before: an arm.
        after: an arm; if it is `before`, each seed is compared with the next: the reversals that noise alone makes.
    """
    share = sensitivity[sensitivity.kind == "share"]
    arms = {arm: rows.pivot(index="seed", columns="layer", values="loss_rise") for arm, rows in share.groupby("arm")}
    if before not in arms or after not in arms:
        return None
    second = arms[after] if before != after else arms[after].set_axis(np.roll(arms[after].index, 1))
    seeds = [seed for seed in arms[before].index if seed in second.index]
    if len(seeds) < 2:
        return None
    swaps = [statistics.order_reversals(arms[before].loc[seed], second.loc[seed]) for seed in seeds]
    return estimated(swaps, np.zeros(len(swaps)))
