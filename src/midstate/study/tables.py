"""From run directories to tables: one row a run, and the curves that figures need."""

import fcntl
import gzip
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from midstate.common.files import read_yaml, write_together
from midstate.study import columns
from midstate.study.claims import COMMITTED, Claim, read_all
from midstate.study.levels import levels_of
from midstate.study.planning import PlannedRun

PILOT_TABLE = "pilot.csv"
KEY = ["arm", "overrides", "seed"]
FROM_SUMMARY = {
    "data": "data", "model": "model", "epochs": "epochs",
    "top1": "top1", "top5": "top5", "loss": "loss", "val_top1": "val_top1",
    "flipflop": "flipflop", "sparsity": "sparsity", "params_prunable": "params_prunable",
    "params": "params_nonzero", "params_sparse": "params_sparse", "macs": "macs_sparse", "macs_dense": "macs_dense",
    "wall_seconds": "wall_seconds", "config_hash": "config_hash", "numerics": "numerics", "git": "git",
    "device": "device", "torch": "torch", "threads": "threads",
}  # fmt: skip
FROM_RECOVERY = {"just_pruned": "just_pruned", "recovered": "finished"}


def read_runs(results: Path) -> pd.DataFrame:
    """Read runs.csv; an empty table where there is none."""
    return read_table(results / "runs.csv", [*KEY, "config_hash", "wall_seconds"])


def read_table(path: Path, columns: Iterable[str] = tuple(KEY)) -> pd.DataFrame:
    """Read a table of results; where there is no file, an empty one."""
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    # A hash of digits and an e would be read as a number.
    table = pd.read_csv(path, dtype=dict.fromkeys(("config_hash", "git", "overrides", "claims"), str))
    return table.fillna({"overrides": "", "claims": ""})


def read_pilot(results: Path) -> pd.DataFrame:
    """Read pilot.csv; if `results` has none, the committed one, whose gates then hold."""
    found = [path for folder in (results, COMMITTED) if (path := folder / PILOT_TABLE).is_file()]
    return read_table(next(iter(found), results / PILOT_TABLE), [*KEY, "config_hash", "wall_seconds"])


def collect_pilot(planned: Iterable[PlannedRun], results: Path) -> None:
    """Add finished runs of a pilot to its own table."""
    if rows := [_row(run) for run in planned if run.finished]:
        path, new = results / PILOT_TABLE, pd.DataFrame(rows)
        with _alone(results):
            write_together({path: _merged(path, new, _outdated(path, new))})


def collect(planned: Iterable[PlannedRun], results: Path, claims: Sequence[Claim] | None = None) -> None:
    """Add finished runs to the tables in `results`, to all of them or, where one cannot be written, to none.

    A run replaces the rows of its arm, cell and seed, and those of runs of its arm, cell and device with another config
    hash: they are from before a change of the experiment, and would be compared with the new ones.

    Args:
        planned: runs, finished or not.
        results: folder of the tables.
        claims: choose the arms with rows in losses.csv.gz and levels.csv; None: all claims.
    """
    if not (finished := [run for run in planned if run.finished]):
        return
    claims = read_all() if claims is None else claims
    keeping = {arm for claim in claims if claim.keep_losses for arm in claim.all_arms}
    rows = {
        "runs.csv": [_row(run) for run in finished],
        "epochs.csv": [row for run in finished for row in _curve(run, "metrics.csv")],
        "probes.csv": [row for run in finished for row in _curve(run, "probes.csv")],
        "sensitivity.csv": [row for run in finished for row in _curve(run, "sensitivity.csv")],
        "losses.csv.gz": [row for run in finished if run.experiment in keeping for row in _curve(run, "losses.csv")],
        "levels.csv": _levels(finished, claims),
    }
    tables = {results / name: pd.DataFrame(each, columns=None if each else KEY) for name, each in rows.items()}
    with _alone(results):
        runs = results / "runs.csv"
        outdated = _outdated(runs, tables[runs])
        changed = {path: new for path, new in tables.items() if len(new) or (len(outdated) and path.is_file())}
        write_together({path: _merged(path, new, outdated) for path, new in changed.items()})


@contextmanager
def _alone(results: Path) -> Iterator[None]:
    """Lock the tables while they are read and written back: with two sweeps at once rows would be lost."""
    results.mkdir(parents=True, exist_ok=True)
    folder = os.open(results, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _outdated(path: Path, new: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of runs that new ones replace, and that have another config hash than these."""
    cell = ["arm", "overrides", "device"]
    old = read_table(path, [*KEY, "device", "config_hash"])
    return old[(_among(old, new, cell) | _among(old, new, KEY)) & ~_among(old, new, [*cell, "config_hash"])]


def _merged(path: Path, new: pd.DataFrame, outdated: pd.DataFrame) -> bytes:
    """The bytes of a table's file with new rows added; old rows of the same runs and of outdated ones are dropped."""
    if path.is_file():
        old = read_table(path)
        kept = old[~(_among(old, new, KEY) | _among(old, outdated, KEY))]
        new = pd.concat([kept, new]) if len(new) else kept  # beside an empty table whole numbers become floats
    # A column that is empty in the new rows has dtype object after concat; its numbers would be formatted otherwise.
    new = new.infer_objects().sort_values(KEY, kind="stable")
    content = new.to_csv(index=False, float_format="%.6g").encode()
    # Without a time in the gzip header the same table is always the same bytes.
    return gzip.compress(content, mtime=0) if path.suffix == ".gz" else content


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


def _levels(finished: Iterable[PlannedRun], claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Bits and levels of the layers, of the finished runs of the claims' `level_arms`."""
    shown = {arm for claim in claims for arm in claim.level_arms}
    return [{**_key(run), **row} for run in finished if run.experiment in shown for row in levels_of(run.directory)]


def _row(run: PlannedRun) -> dict[str, Any]:
    """One run in one row."""
    summary = json.loads((run.directory / "summary.json").read_text())
    config = read_yaml(run.directory / "config.yaml")
    epochs = pd.read_csv(run.directory / "metrics.csv")
    # The claims for which it was run, with the digest that their files had then.
    tags = [tag for tag in config["logger"].get("tags", []) if "-" in tag]
    return {
        **_key(run),
        "claims": " ".join(tags),
        **{name: summary.get(key) for name, key in FROM_SUMMARY.items()},
        **{key: (summary["allocation"] or {}).get(key) for key in ("params_slack", "macs_slack", "moved")},
        **{column: (summary.get("recovery") or {}).get(key) for column, key in FROM_RECOVERY.items()},
        "churn": epochs["churn"].mean(),
        "revived": epochs["revived"].mean(),
        **columns.along_the_ramp(epochs),
        **columns.gaps(pd.read_csv(run.directory / "probes.csv"), summary, config),
        **columns.instability(pd.read_csv(run.directory / "losses.csv")),
        **columns.sensitivity(run.directory / "sensitivity.csv"),
    }
