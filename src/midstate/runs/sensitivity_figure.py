"""The figure of sensitivity by depth: one panel per kind, one line per level, the layers' sizes at the bottom."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from midstate.runs.drawing import BLUE, GREY, ORANGE, STYLE, save

UNITS = {
    "weights": "weights that go",
    "filters": "filters that go",
    "nm": "N:M",
    "bits": "bits of weights",
    "input_bits": "bits of inputs",
}
NAMED = 40  # layers that the axis names at most
LINEAR = 0.01  # nats: the loss axis is linear below this absolute value, logarithmic above


def draw(rows: Sequence[Mapping[str, Any]], folder: Path, name: str, title: str) -> Path:
    """Write the figure as PNG and SVG; return the path of the PNG.

    Args:
        rows: of sensitivity_by_level.csv.
        folder: for the files.
        name: of the files, without suffix.
        title: what the network is, in a line.
    """
    layers = {row["layer"]: row for row in rows}
    places = {layer: i for i, layer in enumerate(layers)}
    kinds = [kind for kind in dict.fromkeys(row["kind"] for row in rows) if kind]
    orders = [order for order in ("taylor", "hessian_trace") if any(order in row for row in rows)]
    num = len(kinds) + bool(orders) + 1
    width = max(5.2, min(12.0, 0.3 * len(layers) + 2))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(num, 1, figsize=(width, 1.7 * num + 0.8), sharex=True, squeeze=False)
        figure.suptitle(f"{title}\neach layer alone, on validation images", fontsize=8, x=0.02, ha="left")
        for axis, kind in zip(axes[:, 0], kinds, strict=False):
            _levels(axis, [row for row in rows if row["kind"] == kind], places, kind)
        if orders:
            _orders(axes[-2, 0], list(layers.values()), orders)
        _sizes(axes[-1, 0], list(layers.values()))
        return save(figure, folder, name)


def _levels(axis: Axes, rows: Sequence[Mapping[str, Any]], places: Mapping[str, int], kind: str) -> None:
    """Draw one line per requested level: the k-th row of each layer has the same share, N:M or bits."""
    by_layer: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_layer.setdefault(row["layer"], []).append(row)
    num = max(len(each) for each in by_layer.values())
    for k in range(num):
        chosen = [each[k] for each in by_layer.values()]
        colour = plt.get_cmap("viridis")(0.9 * k / max(1, num - 1))
        at = [places[row["layer"]] for row in chosen]
        axis.plot(
            at, [row["loss_rise"] for row in chosen], color=colour, marker="o", ms=2.5, lw=1, label=_level(chosen)
        )
    axis.axhline(0, color="black", lw=0.6)
    axis.set_yscale("symlog", linthresh=LINEAR)
    axis.set_ylim(bottom=1.5 * min(-LINEAR / 4, *(row["loss_rise"] for row in rows)))
    axis.set_ylabel("loss rise (nats)")
    axis.legend(title=UNITS[kind], fontsize=6, title_fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))


def _level(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    if first["kind"] == "nm":
        return f"{first['level']}:{first['full']}"
    if first["kind"] in ("weights", "filters"):
        gone = max(1 - row["level"] / max(1, row["full"]) for row in rows)  # rounding removes less of small layers
        return f"{100 * gone:.3g} %"
    return str(first["level"])


def _orders(axis: Axes, layers: Sequence[Mapping[str, Any]], orders: Sequence[str]) -> None:
    styles = {"taylor": (BLUE, "o", "sum of (w x gradient)²"), "hessian_trace": (ORANGE, "s", "trace of the Hessian")}
    for order in orders:
        colour, marker, label = styles[order]
        values = [row[order] if row[order] > 0 else float("nan") for row in layers]
        axis.plot(range(len(layers)), values, color=colour, marker=marker, ms=2.5, lw=1, label=label)
    axis.set_yscale("log")
    axis.set_ylabel("of the loss\n(log scale)")
    axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))


def _sizes(axis: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(layers))
    axis.bar(places, [row["params"] for row in layers], color=GREY, alpha=0.5, label="parameters")
    axis.plot(
        places, [row["macs"] or float("nan") for row in layers], "_", color=BLUE, ms=8, mew=2, label="MACs an image"
    )
    axis.set_yscale("log")
    axis.set_ylabel("number\n(log scale)")
    axis.set_xlabel("layer, input to output")
    axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    if len(layers) <= NAMED:
        axis.set_xticks(places, [row["layer"] for row in layers], rotation=60, ha="right", fontsize=7)
    axis.grid(axis="x", visible=False)
