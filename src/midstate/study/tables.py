"""From run directories to tables: one row a run, and the curves that figures need."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from midstate.common.correlations import partial_rank_correlation, rank_correlation
from midstate.common.files import write_together
from midstate.engine.sensitivity import KINDS
from midstate.study import statistics
from midstate.study.claims import read_claims
from midstate.study.levels import levels_of
from midstate.study.planning import PlannedRun

KEY = ["arm", "overrides", "seed"]
FROM_SUMMARY = {
    "data": "data", "model": "model", "epochs": "epochs",
    "top1": "top1", "top5": "top5", "loss": "loss", "val_top1": "val_top1",
    "flipflop": "flipflop", "sparsity": "sparsity", "params_prunable": "params_prunable",
    "params": "params_nonzero", "params_sparse": "params_sparse", "macs": "macs_sparse", "macs_dense": "macs_dense",
    "wall_seconds": "wall_seconds", "config_hash": "config_hash", "numerics": "numerics", "git": "git",
    "device": "device", "torch": "torch", "threads": "threads",
}  # fmt: skip


def read_runs(results: Path) -> pd.DataFrame:
    """Read runs.csv; an empty table where there is none."""
    return read_table(results / "runs.csv", [*KEY, "config_hash", "wall_seconds"])


def read_table(path: Path, columns: Iterable[str] = tuple(KEY)) -> pd.DataFrame:
    """Read a table of results; where there is no file, an empty one."""
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    # A hash of digits and an e would be read as a number.
    table = pd.read_csv(path, dtype={"config_hash": str, "git": str, "overrides": str})
    return table.fillna({"overrides": "", "claims": ""})


def collect(planned: Iterable[PlannedRun], results: Path) -> None:
    """Add finished runs to the tables in `results`, to all of them or, where one cannot be written, to none.

    A run of the same arm, cell and seed replaces its row there.
    """
    finished = [run for run in planned if run.finished]
    tables = {
        "runs": [_row(run) for run in finished],
        "epochs": [row for run in finished for row in _curve(run, "metrics.csv")],
        "probes": [row for run in finished for row in _curve(run, "probes.csv")],
        "sensitivity": [row for run in finished for row in _curve(run, "sensitivity.csv")],
        "levels": _levels(finished),
    }
    paths = {results / f"{name}.csv": rows for name, rows in tables.items() if rows}
    if paths:
        with _alone(results):
            write_together({path: _merged(path, pd.DataFrame(rows)) for path, rows in paths.items()})


@contextmanager
def _alone(results: Path) -> Iterator[None]:
    """Let no other sweep read the tables and write them back in the meantime: its rows, or these, would be lost."""
    results.mkdir(parents=True, exist_ok=True)
    folder = os.open(results, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _merged(path: Path, new: pd.DataFrame) -> bytes:
    """A table with new rows, as it stands in its file: old rows whose run is among the new ones go."""
    if path.is_file():
        old = read_table(path)
        stale = _among(old, new, KEY)
        if "config_hash" in new:
            # Rows of an experiment as it was before a change would be compared with those of after.
            cell = ["arm", "overrides", "device"]
            stale |= _among(old, new, cell) & ~_among(old, new, [*cell, "config_hash"])
        new = pd.concat([old[~stale], new])
    new = new.sort_values(KEY, kind="stable")
    return new.to_csv(index=False, float_format="%.6g").encode()


def _among(old: pd.DataFrame, new: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """Mark the old rows that agree with some new row in all `columns`."""
    keys = set(map(tuple, new[columns].to_numpy()))
    return np.array([tuple(key) in keys for key in old[columns].to_numpy()], dtype=bool)


def _key(run: PlannedRun) -> dict[str, Any]:
    return {"arm": run.experiment, "overrides": " ".join(run.overrides), "seed": run.seed}


def _curve(run: PlannedRun, name: str) -> list[dict[str, Any]]:
    """The rows of one of a run's tables, under the run's key."""
    path = run.directory / name
    if not path.is_file():
        return []
    table = pd.read_csv(path).drop(columns=["images_per_second", "seconds", "lr"], errors="ignore")
    return [{**_key(run), **row} for row in table.to_dict("records")]


def _levels(finished: Iterable[PlannedRun]) -> list[dict[str, Any]]:
    """What layers are left in the runs of arms that claims show it of."""
    shown = {arm for claim in read_claims() for arm in claim.level_arms}
    return [{**_key(run), **row} for run in finished if run.experiment in shown for row in levels_of(run.directory)]


def _row(run: PlannedRun) -> dict[str, Any]:
    """One run in one row."""
    summary = json.loads((run.directory / "summary.json").read_text())
    config = yaml.safe_load((run.directory / "config.yaml").read_text())
    epochs = pd.read_csv(run.directory / "metrics.csv")
    # The claims for which it was run, with the digest that their files had then.
    tags = [tag for tag in config["logger"].get("tags", []) if "-" in tag]
    return {
        **_key(run),
        "claims": " ".join(tags),
        **{name: summary.get(key) for name, key in FROM_SUMMARY.items()},
        **{key: (summary["allocation"] or {}).get(key) for key in ("params_slack", "macs_slack", "moved")},
        "churn": epochs["churn"].mean(),
        "revived": epochs["revived"].mean(),
        **_gaps(pd.read_csv(run.directory / "probes.csv"), summary, config),
        **_instability(pd.read_csv(run.directory / "losses.csv")),
        **_sensitivity(run.directory / "sensitivity.csv"),
    }


def _gaps(probes: pd.DataFrame, summary: dict[str, Any], config: dict[str, Any]) -> dict[str, float]:
    """Gaps at the probes, in points; BatchNorm estimated anew where not called raw."""
    if probes.empty:
        return {}
    gap = probes.gap_bn
    row = {
        "gap_last": gap.iloc[-1],
        "gap_raw_last": probes.gap.iloc[-1],
        "gap_max": gap.max(),
        "gap_mean": gap.mean(),
        "gap_sum": gap.sum(),
    }
    if len(probes) == probes.to.max():  # every state was passed through
        row["gap_first_third"] = gap[probes.progress <= 1 / 3 + 1e-9].mean()
        row["gap_last_third"] = gap[probes.progress > 2 / 3 + 1e-9].mean()
        if config["pruner"].get("steps") == "single" and config["pruner"]["granularity"] == "layer" and len(probes) > 1:
            row["gap_last_excess"] = last_excess(gap.to_numpy(), summary["layers"][0]["target"])
    return row


def last_excess(gaps: np.ndarray, target: float) -> float:
    """How far the last gap is beyond proportion: points a halving of N, of the last jump minus of all before it.

    Args:
        gaps: of the jumps M -> M-1 -> ... -> N, in points.
        target: N / M.
    """
    m = len(gaps) / (1 - target)
    n = m - np.arange(len(gaps) + 1)
    halvings = np.log2(n[:-1] / n[1:])
    return float(gaps[-1] / halvings[-1] - gaps[:-1].sum() / halvings[:-1].sum())


def _instability(losses: pd.DataFrame) -> dict[str, float]:
    variance = statistics.residual_variance(losses.loss.to_numpy())
    return {"loss_variance": variance, "log_loss_variance": float(np.log(variance))}


def _sensitivity(path: Path) -> dict[str, float]:
    """How a layer's sensitivity goes with its depth: rank correlations, over layers."""
    if not path.is_file():
        return {}
    kinds = dict(list(pd.read_csv(path).groupby("kind")))
    if len(kinds) < len(KINDS):
        return {}
    share, params, noise = (kinds[kind].set_index("layer") for kind in KINDS)
    sizes = np.log(share.params)
    # Stages: layers of one size, in which depth is not confounded with parameters.
    stages = [stage for _, stage in share.groupby("params") if len(stage) > 2]
    within = [rank_correlation(stage.depth, stage.loss_rise) for stage in stages]
    return {
        "depth_correlation": rank_correlation(share.depth, share.loss_rise),
        "depth_correlation_params": rank_correlation(params.depth, params.loss_rise),
        "depth_correlation_partial": partial_rank_correlation(share.depth, share.loss_rise, sizes),
        "depth_correlation_within": float(np.mean(within)) if within else nan,
        "noise_excess": float((noise.loss_rise - share.loss_rise).mean()),
    }
