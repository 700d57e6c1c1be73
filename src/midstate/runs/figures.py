"""Pictures of one run, drawn from what it has written."""

import csv
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midstate.common.files import write_atomically

# Okabe and Ito's colours, distinguishable with any colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
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


def read_table(path: Path) -> list[dict[str, float | None]]:
    """Read a CSV of numbers; empty cells become None."""
    with path.open(newline="") as file:
        return [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)]


def draw_run(directory: Path, layers: list[dict[str, Any]], states: list[str]) -> list[Path]:
    """Draw the three pictures of a finished run into `directory`/figures.

    Args:
        directory: of the run, with metrics.csv and probes.csv.
        layers: as the summary lists them.
        states: names of the states that probes.csv numbers.

    Returns:
        The PNG files; an SVG of the same name lies beside each.
    """
    rows, probes = read_table(directory / "metrics.csv"), read_table(directory / "probes.csv")
    folder = directory / "figures"
    files = []
    with plt.rc_context(STYLE):
        for name, figure in (
            ("accuracy", accuracy(rows, probes, states)),
            ("kept_by_depth", kept_by_depth(layers)),
            ("schedule", schedule(rows, probes)),
        ):
            png, svg = BytesIO(), BytesIO()
            figure.savefig(png, dpi=150, format="png")
            figure.savefig(svg, metadata={"Date": None}, format="svg")
            plt.close(figure)
            write_atomically(folder / f"{name}.png", png.getvalue())
            write_atomically(folder / f"{name}.svg", svg.getvalue())
            files.append(folder / f"{name}.png")
    return files


def accuracy(rows: list[dict], probes: list[dict], states: list[str]) -> Figure:
    """Accuracy over epochs above, the drop at each jump and the kept share below."""
    epochs = [row["epoch"] for row in rows]
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(6.4, 6), sharex=True, height_ratios=[3, 1.6, 1.2])
    top.plot(epochs, [row["val/top1"] for row in rows], color=BLUE, marker="o", ms=3, label="validation")
    top.plot(epochs, [row["train/top1"] for row in rows], color=ORANGE, marker="s", ms=3, ls="--", label="training")
    top.set_ylabel("top-1 (%)")
    at = _epochs_of(rows, probes)
    for axis in (top, bottom):
        for x in at:
            axis.axvline(x, color=GREY, lw=0.6, alpha=0.5)
    if at:
        top.plot([], [], color=GREY, lw=0.6, label="jump to a new state")
        middle.vlines(at, 0, [probe["gap_bn"] for probe in probes], color=GREEN, lw=2)
        middle.plot(at, [probe["gap_bn"] for probe in probes], "o", color=GREEN, ms=4, label="BatchNorm re-estimated")
        middle.plot(at, [probe["gap"] for probe in probes], "x", color=GREY, ms=4, label="as is")
        middle.legend(ncols=1, fontsize=7, loc="best")
        largest = max(probes, key=lambda probe: probe["gap_bn"])
        notes = [f"{word} jump: {_jump(probe, states)}" for word, probe in (("largest", largest), ("last", probes[-1]))]
        middle.set_title("\n".join(notes), fontsize=7, loc="right")
        _name_states(top, at, probes, states)
    else:
        middle.text(0.5, 0.5, "no jump was probed", transform=middle.transAxes, ha="center", color=GREY)
    middle.axhline(0, color="black", lw=0.6)
    middle.set_ylabel("top-1 lost at\nthe jump (points)")
    bottom.step([0, *epochs], [1, *(row["kept"] for row in rows)], where="post", color=BLUE)
    bottom.set_ylabel("kept share")
    bottom.set_ylim(0, 1.05)
    bottom.set_xlabel("epoch")
    top.legend(fontsize=8)
    return figure


def _jump(probe: dict, states: list[str]) -> str:
    return f"{states[int(probe['from'])]} to {states[int(probe['to'])]}, {probe['gap_bn']:+.1f} points"


def _name_states(axis: Axes, at: list[float], probes: list[dict], states: list[str]) -> None:
    """Write above the axis which state each jump leads to; names too long to stand there become progress."""
    shown, room = [], (at[-1] - at[0]) / 25
    for x, probe in reversed(list(zip(at, probes, strict=True))):  # the last jumps matter most
        if not shown or shown[-1][0] - x > room:
            name = states[int(probe["to"])]
            shown.append((x, name if len(name) <= 6 else f"{100 * probe['progress']:.0f} %"))
    upper = axis.secondary_xaxis("top")
    upper.set_xticks([x for x, _ in shown], [name for _, name in shown], rotation=60, fontsize=6)


def kept_by_depth(layers: list[dict[str, Any]]) -> Figure:
    """Kept share of every prunable layer in the order of depth, with its target."""
    places = range(len(layers))
    figure, axis = plt.subplots(figsize=(max(4.0, min(12.0, 0.45 * len(layers) + 1.5)), 3.6))
    axis.bar(places, [layer["kept"] for layer in layers], color=BLUE, label="kept")
    axis.plot(places, [layer["target"] for layer in layers], "_", color=ORANGE, ms=14, mew=2, label="target")
    if len(layers) <= 40:
        axis.set_xticks(places, [layer["name"] for layer in layers], rotation=60, ha="right", fontsize=7)
    axis.set_xlabel("layer, input to output")
    axis.set_ylabel("kept share of weights")
    axis.set_ylim(0, 1.25 * max(layer["kept"] for layer in layers))
    axis.legend(fontsize=8, ncols=2)
    return figure


def schedule(rows: list[dict], probes: list[dict]) -> Figure:
    """Progress along the path and the kept share it led to."""
    points = sorted(
        {(row["epoch"], row["progress"]) for row in rows}
        | set(zip(_epochs_of(rows, probes), [probe["progress"] for probe in probes], strict=True))
    )
    figure, axis = plt.subplots(figsize=(5.2, 3.2))
    axis.plot(
        *zip((0, points[0][1] if points[0][0] == 0 else 0), *points, strict=True),
        color=BLUE,
        marker=".",
        label="progress along the path",
    )
    axis.plot(
        [row["epoch"] for row in rows],
        [row["kept"] for row in rows],
        color=ORANGE,
        marker="s",
        ms=3,
        ls="--",
        label="kept share",
    )
    axis.set_xlabel("epoch")
    axis.set_ylabel("share")
    axis.set_ylim(-0.03, 1.05)
    axis.legend(fontsize=8)
    return figure


def _epochs_of(rows: list[dict], probes: list[dict]) -> list[float]:
    """Positions of the probes on an axis of epochs."""
    steps_per_epoch = rows[0]["step"] / rows[0]["epoch"]
    return [probe["step"] / steps_per_epoch for probe in probes]
