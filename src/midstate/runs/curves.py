"""Validation accuracy of compared runs over epochs, one curve a group."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from midstate.runs.bands import band
from midstate.runs.drawing import COLOURS, STYLE, save
from midstate.runs.groups import Group

LINES = ("-", "--", ":")
SHADED = 3  # fewest runs with a shaded interval: of two runs it is 13 times as wide as their difference
LARGEST = len(LINES) * len(COLOURS)  # most curves that can be told apart


def draw(groups: Sequence[Group], folder: Path) -> None:
    """Draw curves.png and .svg: means over runs and their 95 % intervals, of the first LARGEST groups."""
    shown = groups[:LARGEST]
    curves = [pd.concat([_curve(run.path, index) for index, run in enumerate(group.runs)]) for group in shown]
    texts = [fill(f"{group.label} (n={len(group.runs)})", 64, break_long_words=False) for group in shown]
    legend = 0.17 * sum(text.count("\n") + 1 for text in texts) + 0.3
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.6, 3.4 + legend))
        for index, (curve, text) in enumerate(zip(curves, texts, strict=True)):
            line = LINES[index // len(COLOURS) % len(LINES)]
            band(axes, curve, "epoch", "val/top1", text, index, line, shaded=curve["run"].nunique() >= SHADED)
            for _, run in curve.groupby("run"):
                axes.plot(run["epoch"], run["val/top1"], color=COLOURS[index % len(COLOURS)], lw=0.6, alpha=0.4)
        values = pd.concat(curves)["val/top1"]
        room, bands = max(1.0, values.max() - values.min()), axes.dataLim  # bands may be far wider than the runs
        margin = 0.05 * room  # a curve on an axis would not be seen
        axes.set_ylim(max(bands.y0, values.min() - room) - margin, min(bands.y1, values.max() + room) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("top-1 (%)")
        more = f"; the best {LARGEST} of {len(groups)}" if len(groups) > LARGEST else ""
        axes.set_title(
            f"Validation accuracy: mean, each run, 95 % interval of {SHADED} or more{more}", fontsize=9, loc="left"
        )
        figure.legend(loc="outside lower left", fontsize=8)
        save(figure, folder, "curves")


def _curve(directory: Path, index: int) -> pd.DataFrame:
    return pd.read_csv(directory / "metrics.csv")[["epoch", "val/top1"]].assign(run=index)
