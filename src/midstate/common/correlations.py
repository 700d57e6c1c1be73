"""Rank correlation, plain and partial."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from midstate.common.intervals import flat


def samples(least: int, **columns: Sequence[float]) -> list[np.ndarray]:
    """Return the columns as float64 vectors, each (n,).

    Raises:
        ValueError: a column is not one-dimensional, has under `least` values, another length than the first,
            or a value that is NaN or infinite.
    """
    vectors = [np.asarray(values, dtype=np.float64) for values in columns.values()]
    for name, vector in zip(columns, vectors, strict=True):
        if vector.ndim != 1 or len(vector) < least:
            raise ValueError(f"{name}: has shape {vector.shape}; must be one-dimensional, {least} values or more")
        if len(vector) != len(vectors[0]):
            raise ValueError(f"{name}: has {len(vector)} values; must have as many as the others, {len(vectors[0])}")
        bad = np.flatnonzero(~np.isfinite(vector))
        if bad.size:
            raise ValueError(f"{name}[{bad[0]}]={vector[bad[0]]}: must be a finite number")
    return vectors


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's correlation, -1 to 1; 0 where one side is constant. Raises as `samples` with least=2."""
    x, y = samples(2, x=x, y=y)
    return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else float(stats.spearmanr(x, y).statistic)


def partial_rank_correlation(x: Sequence[float], y: Sequence[float], *given: Sequence[float]) -> float:
    """Spearman's partial correlation, -1 to 1: of the ranks of x and y after linear regression on those of `given`.

    0 where the regression leaves no residual of x or of y. Raises as `samples` with least=3.
    """
    columns = {f"given[{i}]": values for i, values in enumerate(given)}
    x, y, *given = (stats.rankdata(values) for values in samples(3, x=x, y=y, **columns))
    design, ranks = np.column_stack([np.ones_like(x), *given]), np.column_stack([x, y])
    left, right = (ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]).T
    return 0.0 if flat(left, len(x)) or flat(right, len(x)) else float(stats.pearsonr(left, right).statistic)
