"""Finished runs side by side: as a table, curves and CSV."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from midstate.common.errors import ConfigError, RunFailed
from midstate.common.files import write_atomically
from midstate.common.intervals import mean_interval
from midstate.runs.compare_table import table
from midstate.runs.curves import draw
from midstate.runs.groups import Group, find_runs, group

MEASURES = (
    *("top1", "top5", "loss", "val_top1", "top1_gap", "sparsity", "params_nonzero", "params_sparse", "params_total"),
    *("macs_sparse", "macs_dense", "wall_seconds", "images_per_second"),
)
NAMED = 8  # unfinished runs that a message names at most


def compare(places: Sequence[Path], by: Sequence[str], folder: Path) -> str:
    """Compare all finished runs in some directories; write curves and CSV; return what to print.

    Args:
        places: directories of runs, or directories that hold them, at any depth.
        by: settings to group by; empty: one group per configuration.
        folder: where curves.png, curves.svg, groups.csv and runs.csv are written.

    Raises:
        ConfigError: no such directory, no finished run in it, or a setting that no run has.
        RunFailed: the folder cannot be written.
    """
    runs, left_out = find_runs(places)
    if not runs:
        more = "".join(f"; {note}" for note in left_out[:NAMED])
        raise ConfigError(f"{', '.join(map(str, places))}: no finished run is there{more}")
    groups = sorted(group(runs, by), key=lambda each: -mean_interval(each.values("top1"))[0])
    write(groups, folder)
    files = f"written: curves.png, curves.svg, groups.csv and runs.csv in {folder}"
    return "\n".join([table(groups), *_left_out(left_out), files])


def write(groups: Sequence[Group], folder: Path) -> None:
    """Write curves.png, curves.svg, groups.csv and runs.csv.

    Raises:
        RunFailed: the folder cannot be written.
    """
    tables = {"groups": [_row(each) for each in groups], "runs": [row for each in groups for row in _rows(each)]}
    try:
        for name, rows in tables.items():
            write_atomically(folder / f"{name}.csv", pd.DataFrame(rows).to_csv(index=False).encode())
        draw(groups, folder)
    except OSError as error:
        raise RunFailed(f"--out {folder}: cannot be written ({error.strerror or error})") from error


def _row(group: Group) -> dict[str, Any]:
    """One row of groups.csv: means, and 95 % intervals of two runs or more; nothing where a value is not finite."""
    row = {"label": group.label, "runs": len(group.runs), "configurations": group.num_configurations}
    for measure in MEASURES:
        values = group.values(measure)
        if values and all(map(math.isfinite, values)):
            mean, low, high = mean_interval(values)
            row |= {measure: mean} | ({f"{measure}_low": low, f"{measure}_high": high} if len(values) > 1 else {})
    return row


def _rows(group: Group) -> Iterator[dict[str, Any]]:
    for run in group.runs:
        names = ("config_hash", "seed", "model", "model_name", "data", "pruner", "schedule", *MEASURES)
        typed = " ".join(run.summary.get("overrides", ()))
        yield {"label": group.label, "directory": run.path, "overrides": typed} | {
            name: run.summary.get(name) for name in names
        }


def _left_out(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield f"left out, {len(notes)} not finished, damaged or there twice:"
        yield from (f"  {note}" for note in notes[:NAMED])
    if len(notes) > NAMED:
        yield f"  and {len(notes) - NAMED} more"
