"""Figures of one run, drawn from its tables and its summary."""

import csv
from math import prod
from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midstate.runs.drawing import BLUE, GREEN, GREY, ORANGE, STYLE, save

WIDTH = 5.2  # inches: still readable on a telephone
UNIFORM = 0.005  # largest spread of kept shares that counts as uniform; rounding to whole units causes some
NAMED = 40  # layers that an axis names at most


def read_table(path: Path) -> list[dict[str, float | None]]:
    """Read a CSV of numbers; empty cells become None."""
    with path.open(newline="") as file:
        return [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)]


def draw_run(directory: Path, layers: list[dict[str, Any]], states: list[str], title: str = "") -> list[Path]:
    """Draw the three pictures of a finished run into `directory`/figures.

    Args:
        directory: of the run, with metrics.csv and probes.csv.
        layers: as the summary lists them.
        states: names of the states; `from` and `to` of probes.csv are indices into it.
        title: what the run is, in a line.

    Returns:
        The PNG files; an SVG of the same name lies beside each.
    """
    rows, probes = read_table(directory / "metrics.csv"), read_table(directory / "probes.csv")
    with plt.rc_context(STYLE):
        figures = {
            "accuracy": accuracy(rows, probes, states, title),
            "kept_by_depth": kept_by_depth(layers, title),
            "schedule": schedule(rows, probes, title),
        }
        return [save(figure, directory / "figures", name) for name, figure in figures.items()]


def draw_progress(directory: Path, states: list[str], title: str) -> None:
    """Draw figures/accuracy.png of an unfinished run, from the epochs done so far."""
    rows, probes = read_table(directory / "metrics.csv"), read_table(directory / "probes.csv")
    with plt.rc_context(STYLE):
        save(accuracy(rows, probes, states, title), directory / "figures", "accuracy", ("png",))


def accuracy(rows: list[dict], probes: list[dict], states: list[str], title: str = "") -> Figure:
    """Accuracy over epochs above, the drop at each jump and the kept share below."""
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(WIDTH, 6), sharex=True, height_ratios=[3, 1.6, 1.2])
    _title(figure, title, "accuracy, what each jump costs, and what is kept")
    epochs = [row["epoch"] for row in rows]
    top.plot(epochs, [row["val/top1"] for row in rows], color=BLUE, marker="o", ms=3, label="validation")
    top.plot(epochs, [row["train/top1"] for row in rows], color=ORANGE, marker="s", ms=3, ls="--", label="training")
    top.set_ylabel("top-1 (%)")
    at = _epochs_of(rows, probes)
    for axis in (top, bottom):
        for x in at:
            axis.axvline(x, color=GREY, lw=0.6, alpha=0.5)
    if at:
        top.plot([], [], color=GREY, lw=0.6, label="jump to a new state")
        _gaps(middle, at, probes, states)
        _name_states(top, at, probes, states)
    else:
        middle.text(0.5, 0.5, "no jump was probed", transform=middle.transAxes, ha="center", color=GREY)
    middle.axhline(0, color="black", lw=0.6)
    middle.set_ylabel("top-1 lost at\nthe jump (points)")
    bottom.plot(*zip(*kept_points(rows, probes), strict=True), color=BLUE, marker="o", ms=3)
    bottom.set_ylabel("kept share")
    bottom.set_ylim(0, 1.05)
    bottom.set_xlabel("epoch")
    bottom.set_xlim(0, 1.03 * epochs[-1])  # a valid range even for one epoch
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = top.get_ylim()
    top.set_ylim(low, high + 0.18 * (high - low))  # room for the legend above the lines
    top.legend(fontsize=7.5, ncols=3, loc="upper left")
    return figure


def kept_points(rows: list[dict], probes: list[dict]) -> list[tuple[float, float]]:
    """Pairs of epoch and kept share: at each epoch's end, and at epoch 0 where that share is known."""
    first, jump = rows[0], next(iter(probes), None)
    started = {row["progress"] for row in rows if row["progress"] > 0}
    begun = jump["progress"] if jump and jump["step"] == 0 else 0 if jump or not started else None
    points = [(row["epoch"], row["kept"]) for row in rows]
    if first["progress"] == 0 or begun == 0:
        return [(0, 1.0), *points]
    return [(0, first["kept"]), *points] if begun == first["progress"] else points


def _gaps(axis: Axes, at: list[float], probes: list[dict], states: list[str]) -> None:
    """Draw the accuracy lost at each jump; the title names the largest and the last jump."""
    gaps = [probe["gap_bn"] for probe in probes]
    axis.vlines(at, 0, gaps, color=GREEN, lw=2)
    axis.plot(at, gaps, "o", color=GREEN, ms=4, label="BatchNorm re-estimated")
    axis.plot(at, [probe["gap"] for probe in probes], "x", color=GREY, ms=4, label="as is")
    axis.legend(ncols=1, fontsize=7, loc="best")
    largest = max(probes, key=lambda probe: probe["gap_bn"])
    notes = [f"{word} jump: {_jump(probe, states)}" for word, probe in (("largest", largest), ("last", probes[-1]))]
    axis.set_title("\n".join(line for note in notes for line in wrap(note, 80)), fontsize=7, loc="left")


def _jump(probe: dict, states: list[str]) -> str:
    return f"{states[int(probe['from'])]} to {states[int(probe['to'])]}, {probe['gap_bn']:+.1f} points"


def _name_states(axis: Axes, at: list[float], probes: list[dict], states: list[str]) -> None:
    """Write above the axis the state after each jump; for names over 6 letters, the progress in percent."""
    shown, room = [], (at[-1] - at[0]) / 20
    for x, probe in reversed(list(zip(at, probes, strict=True))):  # the last jumps matter most
        if not shown or shown[-1][0] - x > room:
            name = states[int(probe["to"])]
            shown.append((x, name if len(name) <= 6 else f"{100 * probe['progress']:.0f} %"))
    upper = axis.secondary_xaxis("top")
    upper.set_xticks([x for x, _ in shown], [name for _, name in shown], rotation=60, fontsize=6)


def kept_by_depth(layers: list[dict[str, Any]], title: str = "") -> Figure:
    """Weights and kept weights of every layer in scope, by depth; above them the kept shares, where these differ.

    If all layers keep the same share, the upper panel is left out and the title names the share.
    """
    shares = [layer["kept"] for layer in layers]
    uniform = max(shares) - min(shares) <= UNIFORM
    width = max(WIDTH, min(12.0, 0.3 * len(layers) + 1.5))
    figure, axes = plt.subplots(2 - uniform, 1, figsize=(width, 3.8 if uniform else 5.6), sharex=True, squeeze=False)
    places = range(len(layers))
    if uniform:
        kept = f"every layer keeps {100 * sum(shares) / len(shares):.3g} % of its weights"
    else:
        kept = f"layers keep {100 * min(shares):.3g} to {100 * max(shares):.3g} % of their weights"
        axes[0, 0].bar(places, shares, color=BLUE, label="kept")
        targets = [layer["target"] for layer in layers]
        axes[0, 0].plot(
            places, targets, "_", color=ORANGE, ms=max(4, min(14, 300 / len(layers))), mew=2, label="target"
        )
        axes[0, 0].set_ylabel("kept share")
        axes[0, 0].set_ylim(0, 1.25 * max(*shares, *targets))
        axes[0, 0].legend(fontsize=8, ncols=2)
    _title(figure, title, f"{kept}, layers in scope: {len(layers)}")
    _weights(axes[-1, 0], layers)
    return figure


def _weights(axis: Axes, layers: list[dict[str, Any]]) -> None:
    """Draw each layer's weights and kept weights as bars, on a log scale: layers differ by powers of ten."""
    places, sizes = range(len(layers)), [prod(layer["shape"]) for layer in layers]
    kept = [size * layer["kept"] for size, layer in zip(sizes, layers, strict=True)]
    axis.bar(places, sizes, color=GREY, alpha=0.4, label="dense")
    axis.bar(places, kept, color=BLUE, label="kept")
    axis.set_yscale("log")
    axis.set_ylim(max(0.5, 0.3 * min(filter(None, kept), default=1)), 6 * max(sizes))
    axis.set_ylabel("weights (log scale)")
    axis.legend(fontsize=8, ncols=2)
    if len(layers) <= NAMED:
        axis.set_xticks(places, [layer["name"] for layer in layers], rotation=60, ha="right", fontsize=7)
        axis.tick_params(axis="x", length=0)
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("layer, input to output")


def schedule(rows: list[dict], probes: list[dict], title: str = "") -> Figure:
    """Progress along the path, and the kept share, over epochs."""
    points = sorted(
        {(row["epoch"], row["progress"]) for row in rows}
        | set(zip(_epochs_of(rows, probes), [probe["progress"] for probe in probes], strict=True))
    )
    first = points[0][1] if points[0][0] == 0 else 0
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    _title(figure, title, "progress and kept share")
    axis.plot(*zip((0, first), *points, strict=True), color=BLUE, marker=".", label="progress along the path")
    kept = kept_points(rows, probes)
    axis.plot(*zip(*kept, strict=True), color=ORANGE, marker="s", ms=3, ls="--", label="kept share")
    axis.set_xlabel("epoch")
    axis.set_ylabel("share")
    axis.set_ylim(-0.03, 1.05)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=8)
    return figure


def _title(figure: Figure, title: str, shows: str) -> None:
    """Title a figure: first the run, below it what the figure shows."""
    lines = [*wrap(title, int(14 * figure.get_figwidth())), *wrap(shows, int(14 * figure.get_figwidth()))]
    figure.suptitle("\n".join(lines), fontsize=8, x=0.02, ha="left")


def _epochs_of(rows: list[dict], probes: list[dict]) -> list[float]:
    """Epoch of each probe, as a fraction."""
    steps_per_epoch = rows[0]["step"] / rows[0]["epoch"]
    return [probe["step"] / steps_per_epoch for probe in probes]
