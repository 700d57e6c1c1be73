"""Lines with a band over seeds. A module of its own: it needs pandas, and the figures of one run do not."""

import pandas as pd
from matplotlib.axes import Axes

from midstate.common.intervals import mean_interval
from midstate.runs.drawing import COLOURS, MARKERS


def band(
    axes: Axes, table: pd.DataFrame, x: str, y: str, label: str, index: int, line: str = "-", shaded: bool = True
) -> None:
    """Draw the mean of column `y` at each `x` as a line; `shaded` adds the 95 % t interval."""
    groups = [(at, mean_interval(rows[y])) for at, rows in table.groupby(x)]
    at = [each for each, _ in groups]
    mean, low, high = zip(*(interval for _, interval in groups), strict=True)
    colour = COLOURS[index % len(COLOURS)]
    axes.plot(at, mean, line, color=colour, marker=MARKERS[index % len(MARKERS)], ms=3.5, lw=1.3, label=label)
    if shaded:
        axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
