"""Rows of results that no claim plans: no claim's file asks for their arm, cell and seed."""

from collections.abc import Iterable
from dataclasses import fields

import pandas as pd

from midstate.study.claims import SCALES, Claim
from midstate.study.drawing import Tables
from midstate.study.outline import outline
from midstate.study.tables import KEY


def stray(claims: Iterable[Claim], tables: Tables) -> list[str]:
    """The rows that no claim plans, and those whose run has no row in runs.csv, in words; a line an arm and cell."""
    planned, runs = planned_runs(claims), _keys(tables.runs)
    lines = _in_words("runs.csv", runs - planned, "no claim plans")
    for name in (field.name for field in fields(tables) if field.name != "runs"):
        lines += _in_words(f"{name}.csv", _keys(getattr(tables, name)) - runs, "runs.csv does not have")
    return lines


def planned_runs(claims: Iterable[Claim]) -> set[tuple[str, str, int]]:
    """Arm, overrides and seed of every run that claims may ask for, and of the runs that these begin from."""
    runs = []
    for claim in claims:
        for scale in SCALES:
            most = claim.scales.get(scale, {}).get("max_seeds")
            runs += outline([claim], scale, look_up=False)
            runs += outline([claim], scale, num_seeds=most, look_up=False) if most else []
            runs += outline([claim], scale, arms="*", look_up=False) if claim.levels else []
    return {(run.experiment, " ".join(run.overrides), run.seed) for run in runs}


def _keys(table: pd.DataFrame) -> set[tuple[str, str, int]]:
    return set(table[KEY].itertuples(index=False, name=None))


def _in_words(name: str, keys: set[tuple[str, str, int]], why: str) -> list[str]:
    cells: dict[tuple[str, str], list[int]] = {}
    for arm, overrides, seed in sorted(keys):
        cells.setdefault((arm, overrides), []).append(seed)
    return [
        f"{name}: {' '.join(filter(None, cell))}, {'seed' if len(seeds) == 1 else 'seeds'} "
        f"{', '.join(map(str, seeds))}: {why}"
        for cell, seeds in cells.items()
    ]
