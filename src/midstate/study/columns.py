"""Columns of runs.csv that are made from a run's own tables."""

from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from midstate.common.correlations import partial_rank_correlation, rank_correlation
from midstate.engine.sensitivity import HALVES
from midstate.study import statistics


def along_the_ramp(epochs: pd.DataFrame) -> dict[str, float]:
    """Validation top-1 at the epoch end nearest to the middle of the ramp, and at the last one before its last jump.

    Without a ramp both are those of the last epoch.
    """
    during = epochs[epochs.progress < 1]
    if during.empty:
        during = epochs.iloc[-1:]
    middle = (during.progress - 0.5).abs().idxmin()
    return {"top1_mid_ramp": during["val/top1"][middle], "top1_before_last_jump": during["val/top1"].iloc[-1]}


def gaps(probes: pd.DataFrame, summary: dict[str, Any], config: dict[str, Any]) -> dict[str, float]:
    """Gaps at the probes, in points, with BatchNorm re-estimated; `gap_raw_last` without."""
    if probes.empty:
        return {}
    gap = probes.gap_bn
    row = {
        "gap_first": gap.iloc[0],
        "gap_last": gap.iloc[-1],
        "gap_raw_last": probes.gap.iloc[-1],
        "gap_max": gap.max(),
        "gap_mean": gap.mean(),
        "gap_sum": gap.sum(),
    }
    if len(probes) == probes.to.max():  # every jump has its probe
        row["gap_first_third"] = gap[probes.progress <= 1 / 3 + 1e-9].mean()
        late = gap[probes.progress > 2 / 3 + 1e-9]
        row["gap_last_third"], row["gap_last_third_but_one"] = late.mean(), late.iloc[:-1].mean()
        if config["pruner"].get("steps") == "single" and config["pruner"]["granularity"] == "layer" and len(probes) > 1:
            row["gap_last_excess"] = last_excess(gap.to_numpy(), summary["layers"][0]["target"])
    return row


def last_excess(gaps: np.ndarray, target: float) -> float:
    """Gap a halving of N, in points: that of the last jump minus that of all jumps before it.

    Args:
        gaps: of the jumps M -> M-1 -> ... -> N, in points.
        target: N / M.
    """
    m = len(gaps) / (1 - target)
    n = m - np.arange(len(gaps) + 1)
    halvings = np.log2(n[:-1] / n[1:])
    return float(gaps[-1] / halvings[-1] - gaps[:-1].sum() / halvings[:-1].sum())


def instability(losses: pd.DataFrame) -> dict[str, float]:
    """Variance of the loss of single steps around its running median; relative: over the squared mean loss."""
    variance = statistics.residual_variance(losses.loss.to_numpy())
    relative = variance / losses.loss.mean() ** 2
    return {
        "loss_variance": variance,
        "log_loss_variance": float(np.log(variance)),
        "log_relative_variance": float(np.log(relative)),
    }


def sensitivity(path: Path) -> dict[str, float]:
    """Rank correlations over layers of sensitivity with depth, for the kinds that a run's sensitivity.csv has."""
    kinds = dict(list(pd.read_csv(path).groupby("kind"))) if path.is_file() else {}
    row = {"half_correlation": _half_correlation(kinds)}
    if "share" not in kinds:
        return row
    share = kinds["share"].set_index("layer")
    # Stages: layers of one size, in which depth is not confounded with parameters.
    stages = [stage for _, stage in share.groupby("params") if len(stage) > 2]
    within = [rank_correlation(stage.depth, stage.loss_rise) for stage in stages]
    row["depth_correlation"] = rank_correlation(share.depth, share.loss_rise)
    if "params" in kinds:
        row["depth_correlation_params"] = rank_correlation(kinds["params"].depth, kinds["params"].loss_rise)
    if share.params.nunique() > 1:
        sizes = np.log(share.params)
        row["depth_correlation_partial"] = partial_rank_correlation(share.depth, share.loss_rise, sizes)
    row["depth_correlation_within"] = float(np.mean(within)) if within else nan
    if "noise" in kinds:
        noise = kinds["noise"].set_index("layer")
        row["noise_excess"] = float((noise.loss_rise - share.loss_rise).mean())
    return row


def _half_correlation(kinds: dict[str, pd.DataFrame]) -> float:
    """Rank correlation of the layers' sensitivity on both halves of the images; NaN where it was not measured."""
    if not set(HALVES) <= set(kinds):
        return nan
    first, second = (kinds[kind].set_index("layer").loss_rise for kind in HALVES)
    return rank_correlation(first, second.loc[first.index]) if len(first) > 1 else nan
