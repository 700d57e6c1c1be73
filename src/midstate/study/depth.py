"""Does what layers are left go with their depth? Rank correlations over layers, and what chance alone gives.

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
    """How values of layers go with depth, over the seeds of one network."""

    seeds: int
    ordered: int  # of these, seeds in which layers differ at all; a correlation without any order counts as 0
    plain: Interval  # Spearman's correlation with depth
    given_size: Interval  # the same of what is left of the ranks given those of log sizes
    p: float  # of `plain`: depths permuted among all layers
    p_size: float | None  # of layers of one size: depths permuted among them; None: no two layers are of one size
    concordance: float | None  # Kendall's W of the seeds; None: one seed, or values without any order
    tau: float | None  # Kendall's tau-b, mean over pairs of seeds; None: the same


def with_depth(
    values: Sequence[Sequence[float]], depths: Sequence[float], sizes: Sequence[Sequence[float]]
) -> WithDepth:
    """Correlate the values of layers with depth.

    Raises:
        ValueError: fewer than 3 layers, numbers that differ, sizes that are not above 0, NaN or infinite values.
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
    """Number the layers' sizes: layers of one number are equal in all columns of (L, k)."""
    return np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1)


def permuted(
    values: np.ndarray, depths: Sequence[float], strata: Sequence[int], draws: int = DRAWS, seed: int = 0
) -> float | None:
    """Two-sided p value of the correlation with depth, had depths been dealt to the layers of a stratum by chance.

    All seeds are dealt the same: they are of one network, and it is the layers that could have stood elsewhere. The
    statistic is the mean over seeds of the covariance of ranks; with one stratum, of Spearman's correlation.

    Args:
        values: (S, L).
        depths: (L,).
        strata: (L,), one number for layers that are alike.
        draws: permutations; the same at every call.
        seed: of the draws.

    Returns:
        (1 + draws at least as far from 0 as what was found) / (1 + draws); None where every layer is alone.
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
    slack = 1e-9 * len(ranks) ** 2  # what is equal but for rounding counts
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
