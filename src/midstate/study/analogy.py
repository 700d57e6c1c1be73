"""Bits, levels or sensitivity of layers over their depth: figures and rank correlations for the report."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from midstate.runs.drawing import save
from midstate.study import figures
from midstate.study.claims import Claim
from midstate.study.depth import WithDepth, with_depth
from midstate.study.drawing import Tables
from midstate.study.figure_plan import LevelFigure, Panel


@dataclass(frozen=True)
class Way:
    """One line of a figure, with its correlation with depth."""

    what: str  # title of the panel
    label: str
    arm: str
    seeds: int  # planned
    found: WithDepth | None  # None: not run


@dataclass(frozen=True)
class Levels:
    """The levels of one network in the report."""

    plan: LevelFigure
    cell: str
    ways: list[Way]
    path: Path | None = None


def levels_of_claim(claim: Claim, tables: Tables, folder: Path) -> list[Levels]:
    """Figures and correlations of every network of a claim that has rows; files go to `folder`."""
    found, cell = [], " ".join(claim.level_cell)
    rows = tables.cell(cell)
    for plan in claim.levels:
        if rows.levels.arm.isin(plan.arms).any():
            path = save(figures.draw_panels(plan.drawing, claim, rows), folder, plan.figure)
            found.append(Levels(plan, cell, ways(plan, rows), path))
    return found


def ways(plan: LevelFigure, tables: Tables) -> list[Way]:
    """Correlations with depth, one for each line of a figure.

    Args:
        plan: panels and arms of the figure.
        tables: rows of one cell.
    """
    sizes = tables.levels[tables.levels.arm.isin(plan.arms)].drop_duplicates("layer").set_index("layer")
    return [
        Way(panel.title, label, arm, plan.seeds, _found(_rows(panel, arm, tables), sizes))
        for panel, arm, label in plan.ways
    ]


def _rows(panel: Panel, arm: str, tables: Tables) -> pd.DataFrame:
    """Seed, layer, depth and value of an arm."""
    if panel.kind == "depth":
        rows, value = tables.sensitivity[tables.sensitivity.arm == arm], "loss_rise"
        rows = rows[rows.kind == "share"] if len(rows) else rows
    else:
        rows, value = tables.levels[tables.levels.arm == arm], panel.value
    return rows.rename(columns={value: "value"}).dropna(subset=["value"]) if len(rows) else rows


def _found(rows: pd.DataFrame, sizes: pd.DataFrame) -> WithDepth | None:
    """Correlations over the layers of known size; if no size is known, over all layers, sized by parameters."""
    if rows.empty:
        return None
    table = rows.pivot(index="seed", columns="layer", values="value")
    sizes = rows.drop_duplicates("layer").set_index("layer") if sizes.empty else sizes
    known = sizes.loc[sizes.index.isin(table.columns)].sort_values("depth")
    columns = [name for name in ("params", "macs") if name in known]
    return with_depth(table[known.index].dropna().to_numpy(float), known.depth, known[columns].to_numpy(float))
