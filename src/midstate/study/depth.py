"""Rank correlations of layers' values with depth, their permutation p values, and the agreement of seeds.

Values are (S, L): a row a seed, a column a layer; depths are (L,), sizes (L, k), such as parameters and MACs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from midstate.common.correlations import partial_rank_correlation, rank_correlation, samples
from midstate.common.intervals import flat, mean_interval

DRAWS = 9999  # permutations of depths
Interval = tuple[float, float, float]  # mean over seeds, and the ends of its 95 % t interval


@dataclass(frozen=True)
class WithDepth:
    """Correlations of layers' values with depth, over the seeds of one network."""

    seeds: int
    ordered: int  # number of seeds in which layers differ; the correlation of any other seed is 0
    plain: Interval  # Spearman's correlation with depth
    given_size: Interval  # the same given log sizes (partial rank correlation)
    p: float  # p value of `plain`: depths permuted among all layers
    p_size: float | None  # p value with depths permuted among layers of one size alone; None: all sizes differ
    concordance: float | None  # Kendall's W of the seeds; None: one seed, or values without any order
    tau: float | None  # Kendall's tau-b, mean over pairs of seeds; None: fewer than two seeds with an order


def with_depth(
    values: Sequence[Sequence[float]], depths: Sequence[float], sizes: Sequence[Sequence[float]]
) -> WithDepth:
    """Correlate the values of layers with depth.

    Raises:
        ValueError: fewer than 3 layers, lengths that differ, sizes that are not above 0, NaN or infinite values.
    """
    values, depths, logs = _checked(values, depths, sizes)
    plain = [rank_correlation(row, depths) for row in values]
    partial = [partial_rank_correlation(row, depths, *logs.T) for row in values]
    strata = same_size(logs)
    return WithDepth(
        len(values),
        sum(len(set(row)) > 1 for row in values),
        mean_interval(plain),
        mean_interval(partial),
        permuted(values, depths, np.zeros(len(depths), dtype=int)),
        permuted(values, depths, strata),
        concordance(values),
        mean_tau(values),
    )


def same_size(sizes: np.ndarray) -> np.ndarray:
    """Number the layers by size: layers with the same number are equal in all columns of (L, k)."""
    return np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1)


def permuted(
    values: np.ndarray, depths: Sequence[float], strata: Sequence[int], draws: int = DRAWS, seed: int = 0
) -> float | None:
    """Two-sided p value of the correlation with depth, by permuting depths among the layers of each stratum.

    All seeds get the same permutation: they share one network, and its layers are what is exchanged. The statistic
    is the mean over seeds of the covariance of ranks; with one stratum, of Spearman's correlation.

    Args:
        values: (S, L).
        depths: (L,).
        strata: (L,), the same number for layers that may be exchanged.
        draws: number of permutations.
        seed: of the permutations, so that they are the same at every call.

    Returns:
        (1 + permutations at least as far from 0 as the data) / (1 + draws); None where each stratum has one layer.
    """
    strata = np.asarray(strata)
    groups = [at for each in np.unique(strata) if len(at := np.flatnonzero(strata == each)) > 1]
    if not groups:
        return None
    scores = np.mean([_standardised(row) for row in np.asarray(values, dtype=float)], axis=0)
    ranks = stats.rankdata(depths)
    generator, found, by_chance = np.random.default_rng(seed), 0.0, np.zeros(draws)
    for at in groups:
        centred = ranks[at] - ranks[at].mean()
        found += centred @ scores[at]
        by_chance += generator.permuted(np.tile(centred, (draws, 1)), axis=1) @ scores[at]
    slack = 1e-9 * len(ranks) ** 2  # draws that are equal up to rounding count, too
    return float((1 + np.count_nonzero(abs(by_chance) >= abs(found) - slack)) / (1 + draws))


def concordance(values: Sequence[Sequence[float]]) -> float | None:
    """Kendall's W of the seeds' rankings of layers, with its correction for ties: 0 without agreement, 1 with full.

    None for one seed, or where no seed tells layers apart.
    """
    values = np.asarray(values, dtype=float)
    seeds, layers = values.shape
    if seeds < 2 or all(flat(row, abs(row).max()) for row in values):
        return None
    return float(stats.friedmanchisquare(*values.T).statistic / (seeds * (layers - 1)))


def mean_tau(values: Sequence[Sequence[float]]) -> float | None:
    """Kendall's tau-b, mean over the pairs of seeds that both tell layers apart; None where there is no pair."""
    rows = [row for row in np.asarray(values, dtype=float) if not flat(row, abs(row).max())]
    found = [stats.kendalltau(x, y).statistic for x, y in combinations(rows, 2)]
    return float(np.mean(found)) if found else None


def _standardised(row: np.ndarray) -> np.ndarray:
    """Ranks with mean 0 and variance 1; zeros where there is no order."""
    ranks = stats.rankdata(row)
    return np.zeros(len(row)) if np.ptp(ranks) == 0 else (ranks - ranks.mean()) / ranks.std()


def _checked(
    values: Sequence[Sequence[float]], depths: Sequence[float], sizes: Sequence[Sequence[float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, depths and log sizes as arrays."""
    columns = {f"values[{i}]": row for i, row in enumerate(values)}
    columns |= {f"sizes[:, {k}]": column for k, column in enumerate(zip(*sizes, strict=True))}
    depths, *others = samples(3, depths=depths, **columns)
    rows, sizes = np.array(others[: len(values)]), np.array(others[len(values) :]).T
    if (sizes <= 0).any():
        raise ValueError(f"sizes={sizes.tolist()}: must be above 0")
    return rows, depths, np.log(sizes)
