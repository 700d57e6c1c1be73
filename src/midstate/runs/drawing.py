"""Shared by all pictures: style, colours, lines with a band over seeds, saving."""

from io import BytesIO
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstate.common.files import write_atomically
from midstate.common.intervals import mean_interval

# Okabe and Ito's colours and a marker each: told apart with any colour vision, and in print.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
PURPLE, SKY, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#E69F00", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK)
MARKERS = "osD^vPX"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "midstate",
}
matplotlib.use("Agg")  # before pyplot: no display is needed


def band(
    axes: Axes, table: pd.DataFrame, x: str, y: str, label: str, index: int, line: str = "-", shaded: bool = True
) -> None:
    """A line of means over seeds, its interval shaded."""
    groups = [(at, mean_interval(rows[y])) for at, rows in table.groupby(x)]
    at = [each for each, _ in groups]
    mean, low, high = zip(*(interval for _, interval in groups), strict=True)
    colour = COLOURS[index % len(COLOURS)]
    axes.plot(at, mean, line, color=colour, marker=MARKERS[index % len(MARKERS)], ms=3.5, lw=1.3, label=label)
    if shaded:
        axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)


def save(figure: Figure, folder: Path, name: str, kinds: tuple[str, ...] = ("png", "svg")) -> Path:
    """Write a figure whole, without a date, so that the same figure is the same file; return the first file."""
    for kind in kinds:
        content = BytesIO()
        figure.savefig(content, format=kind, **({"dpi": 150} if kind == "png" else {"metadata": {"Date": None}}))
        write_atomically(folder / f"{name}.{kind}", content.getvalue())
    plt.close(figure)
    return folder / f"{name}.{kinds[0]}"
