"""Shared by the figures of claims: style, tables, effects and points, saving."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstate.common.files import write_together
from midstate.common.intervals import mean_interval
from midstate.runs import drawing
from midstate.runs.drawing import BLUE, GREY, ORANGE
from midstate.study.levels import COLUMNS
from midstate.study.tables import KEY, read_table

STYLE = {**drawing.STYLE, "font.size": 8, "pdf.fonttype": 42, "legend.fontsize": 7, "axes.titlesize": 8.5}
COLUMN, PAGE = 3.4, 7.0  # inches: one column of a two-column page, and both
SMALL = 6.5  # font size of notes, in points


@dataclass(frozen=True)
class Tables:
    """The rows of one cell or of all: runs, and curves over epochs, probes and layers."""

    runs: pd.DataFrame
    epochs: pd.DataFrame
    probes: pd.DataFrame
    sensitivity: pd.DataFrame
    levels: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*KEY, *COLUMNS]))

    @classmethod
    def read(cls, results: Path) -> "Tables":
        """Read what `tables.collect` wrote; a table that is not there is empty."""
        names = ("runs", "epochs", "probes", "sensitivity")
        levels = read_table(results / "levels.csv", [*KEY, *COLUMNS])
        return cls(*(read_table(results / f"{name}.csv") for name in names), levels)

    def cell(self, overrides: str, seeds: Iterable[int] | None = None) -> "Tables":
        """The rows of one cell, of the given seeds or of all."""
        cell = (table[table.overrides == overrides] for table in vars(self).values())
        return Tables(*(table if seeds is None else table[table.seed.isin(seeds)] for table in cell))

    def has(self, arms: Iterable[str]) -> bool:
        """Tell whether every arm has runs of two seeds or more."""
        return all(self.runs[self.runs.arm == arm].seed.nunique() > 1 for arm in arms)


@dataclass(frozen=True)
class Effect:
    """One line of a panel of effects."""

    label: str
    effect: float
    low: float
    high: float
    primary: bool = False  # it decides the claim
    costs: str = ""


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write a figure as PNG and PDF, without a date, so that the same figure is the same file; return the PNG."""
    png, pdf = BytesIO(), BytesIO()
    figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    write_together({folder / f"{name}.png": png.getvalue(), folder / f"{name}.pdf": pdf.getvalue()})
    plt.close(figure)
    return folder / f"{name}.png"


def panels(
    number: int = 1,
    height: float = 2.7,
    ratios: Sequence[float] | None = None,
    columns: int | None = None,
    width: float | None = None,
) -> tuple[Figure, list[Axes]]:
    """An empty figure, as wide as a text column with one panel a row, else as the page.

    Args:
        number: number of panels.
        height: inches.
        ratios: relative widths of the columns.
        columns: panels a row; None: all.
        width: inches; None: by the number of columns.
    """
    columns = columns or number
    width = width or (COLUMN if columns == 1 else PAGE)
    rows = -(-number // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), width_ratios=ratios, squeeze=False)
    kept = list(axes.flat[:number])
    for empty in axes.flat[number:]:
        empty.remove()
    if number % columns and rows > 1:  # the last panel fills the rest of its row
        kept[-1].remove()
        kept[-1] = figure.add_subplot(axes[0, 0].get_gridspec()[-1, (number - 1) % columns :])
    return figure, kept


def dots(axes: Axes, rows: Sequence[Effect], sesoi: float | None = None) -> None:
    """Effects with their intervals, one below the other; the band is ±`sesoi`, too small to matter."""
    if sesoi:
        axes.axvspan(-sesoi, sesoi, color=GREY, alpha=0.22, lw=0)
        place = {"xycoords": ("data", "axes fraction"), "xytext": (0, 1), "textcoords": "offset points"}
        axes.annotate(f"SESOI ±{sesoi:.2g}", (0, 1), ha="center", va="bottom", fontsize=SMALL, color="#555555", **place)
    axes.axvline(0, color=GREY, lw=0.8)
    for at, row in enumerate(reversed(rows)):
        error = [[row.effect - row.low], [row.high - row.effect]]
        colour, marker = (ORANGE, "D") if row.primary else (BLUE, "o")
        axes.errorbar(row.effect, at, xerr=error, fmt=marker, ms=4, color=colour, lw=1.3, capsize=2)
        if row.primary and len(rows) > 1:
            axes.axhspan(at - 0.5, at + 0.5, color=ORANGE, alpha=0.08, lw=0)
        if row.costs:
            place = {"xycoords": ("axes fraction", "data"), "xytext": (4, 0), "textcoords": "offset points"}
            axes.annotate(row.costs, (1, at), va="center", fontsize=SMALL, **place)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="y", visible=False)


def points(axes: Axes, rows: Sequence[tuple[str, Sequence[float]]]) -> None:
    """One column an arm: every seed as a small dot, the mean with its interval."""
    for at, (_, values) in enumerate(rows):
        mean, low, high = mean_interval(values)
        axes.plot([at] * len(values), values, ".", ms=3, color=GREY, alpha=0.8)
        axes.errorbar(at, mean, yerr=[[mean - low], [high - mean]], fmt="o", ms=4.5, color=BLUE, capsize=3, lw=1.3)
    axes.set_xticks(range(len(rows)), [label for label, _ in rows])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.grid(axis="x", visible=False)


def bar(axes: Axes, length: float, unit: str) -> None:
    """The SESOI as a length on the vertical axis, at the lower right."""
    low, high = axes.get_ylim()
    x, bottom = 0.97, low + 0.04 * (high - low)  # x: a share of the axes
    transform = axes.get_yaxis_transform()
    axes.plot([x, x], [bottom, bottom + length], color="#555555", lw=2.2, transform=transform, solid_capstyle="butt")
    words = f"SESOI\n{length:g} {unit}"
    axes.text(x - 0.02, bottom, words, ha="right", va="bottom", fontsize=SMALL, color="#555555", transform=transform)
    axes.set_ylim(low, high)


def small(axes: Axes, sesoi: float) -> None:
    """A band of ±`sesoi` on the vertical axis: too small to matter."""
    axes.axhspan(-sesoi, sesoi, color=GREY, alpha=0.22, lw=0)
    axes.axhline(0, color=GREY, lw=0.8)
    place = {"xycoords": ("axes fraction", "data"), "xytext": (-2, 1), "textcoords": "offset points", "ha": "right"}
    axes.annotate(f"SESOI ±{sesoi:g}", (1, -sesoi), fontsize=SMALL, color="#555555", **place)


def chance(axes: Axes, level: float) -> None:
    """A line at the accuracy of a random guess."""
    axes.axhline(level, color="#555555", lw=0.9, ls=(0, (4, 3)))
    place = {"xycoords": ("axes fraction", "data"), "xytext": (2, 2), "textcoords": "offset points"}
    axes.annotate(f"chance, {level:g} %", (0, level), fontsize=SMALL, color="#555555", **place)


def note(axes: Axes, text: str) -> None:
    """A line inside the axes, at their foot."""
    axes.text(0.02, 0.03, text, transform=axes.transAxes, fontsize=7, color="#555555", style="italic", wrap=True)
