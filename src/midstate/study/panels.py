"""The kinds of panel in the figure of a claim; the claim's file in conf/claim names kinds and arms."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from midstate.runs.bands import band
from midstate.runs.drawing import BLUE, COLOURS, GREY, SKY
from midstate.study import drawing
from midstate.study.claims import Claim
from midstate.study.costs import COSTS, DIVERGED, ratio
from midstate.study.drawing import SMALL, Effect, Tables
from midstate.study.endpoints import Endpoint
from midstate.study.figure_plan import Panel
from midstate.study.measuring import margin, measure

DODGE = 0.12  # shift along depth, in layers, between lines that may coincide
LEGEND = 0.45  # share of the axis added above the lines for the legend


def effects(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """Means or differences of arms, one below the other; those without runs are left out."""
    asked = {label: {arm: 1} for arm, label in panel.arms.items()} | panel.rows
    rows = []
    for label, what in asked.items():
        endpoint = claim.named(what) if isinstance(what, str) else Endpoint("", panel.value, "", contrast=what)
        found = measure(endpoint, tables.runs)
        if found:
            beside = _costs(endpoint, tables.runs) if panel.costs else ""
            primary = endpoint is claim.endpoint
            low, high = (found.effect if np.isnan(each) else each for each in (found.low, found.high))
            rows.append(Effect(label, found.effect, low, high, primary, beside))
    drawing.dots(axes, rows, margin(claim.endpoint, tables.runs) if panel.margin else None)
    if panel.costs and rows:
        place = {"xycoords": "axes fraction", "xytext": (4, 1), "textcoords": "offset points"}
        axes.annotate("params  MACs", (1, 1), va="bottom", fontsize=SMALL, color="#555555", **place)


def _costs(endpoint: Endpoint, runs: pd.DataFrame) -> str:
    """Parameters and MACs of what is compared, as ratios."""
    found = [ratio(endpoint, runs, cost) for cost in COSTS]
    return "   ".join(f"{each[0]:5.2f}" if each else "    –" for each in found)


def points(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """One column an arm: every seed, and the mean."""
    rows = {arm: tables.runs[tables.runs.arm == arm] for arm in panel.arms}
    labels = {arm: _sized(label, rows[arm]) if panel.costs else label for arm, label in panel.arms.items()}
    drawing.points(axes, [(labels[arm], rows[arm][panel.value].dropna()) for arm in panel.arms if len(rows[arm])])
    axes.tick_params(axis="x", labelsize=SMALL)
    if panel.chance is not None:
        drawing.chance(axes, panel.chance)
    if panel.bar:
        drawing.bar(axes, claim.endpoint.sesoi, claim.endpoint.unit)


def _sized(label: str, rows: pd.DataFrame) -> str:
    """A label with the parameters and MACs of its arm."""
    return f"{label}\n{rows.params_sparse.mean() / 1e3:.0f}k\n{rows.macs.mean() / 1e6:.1f}M"


def gaps(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """Gaps at the probes along the path, a line an arm."""
    for i, (arm, label) in enumerate(panel.arms.items()):
        rows = tables.probes[tables.probes.arm == arm]
        if len(rows):
            band(axes, rows, "progress", "gap_bn", f"{label}{_at_its_end(tables.runs[tables.runs.arm == arm])}", i)
    drawing.small(axes, claim.endpoint.sesoi)
    axes.legend(fontsize=SMALL)
    if panel.shade:
        axes.axvspan(*panel.shade, color=BLUE, alpha=0.06, lw=0)


def _at_its_end(runs: pd.DataFrame) -> str:
    """A warning for the label of an arm that has diverged: near chance no gap can be seen."""
    top1 = runs.top1.mean() if "top1" in runs else np.nan
    return f" (diverged: ends at {top1:.0f} %)" if top1 < DIVERGED else ""


def depth(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """Sensitivity of the layers of one arm over depth, a line for each size of layer."""
    ((arm, title),) = panel.arms.items()
    rows = tables.sensitivity[tables.sensitivity.arm == arm]
    if rows.empty:
        drawing.note(axes, f"not run: {title}")
        return
    rows = rows[rows.kind == "share"]
    by_size = {f"{size:,} weights": stage for size, stage in rows.groupby("params")}
    for i, (label, stage) in enumerate((by_size if len(by_size) <= len(COLOURS) else {"all sizes": rows}).items()):
        band(axes, stage, "depth", "loss_rise", label, i)
    low = rows.groupby(["params", "depth"]).loss_rise.mean().min()
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(bottom=min(0, 1.5 * low))  # an interval of few seeds would take most of the scale
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=SMALL)


def levels(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """Bits or level of each layer over depth, a line an arm; arms without rows are named as not run."""
    every = {
        label: tables.levels[tables.levels.arm == arm].dropna(subset=[panel.value]) for arm, label in panel.arms.items()
    }
    seeds = {label: rows.seed.nunique() for label, rows in every.items() if len(rows)}
    alike = len(set(seeds.values())) == 1
    for i, (label, rows) in enumerate(every.items()):
        if label in seeds:
            beside = rows.assign(
                depth=rows.depth + DODGE * (i - len(every) / 2)
            )  # or equal lines would hide each other
            band(axes, beside, "depth", panel.value, label if alike else f"{label} ({_seeds(seeds[label])})", i)
    if panel.uniform is not None:
        axes.axhline(panel.uniform, color=GREY, lw=1, ls=":", label="the same for all")
    missing = [label for label in every if label not in seeds]
    words = [_seeds(next(iter(seeds.values())))] if alike else []
    _legend_inside(axes, "; ".join(words + ([f"not run: {', '.join(missing)}"] if missing else [])))


def sizes(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """Parameters and MACs of every layer that one of the arms has rows of."""
    rows = tables.levels[tables.levels.arm.isin(panel.arms)].drop_duplicates("layer").sort_values("depth")
    for at, (column, label) in enumerate({"params": "parameters", "macs": "MACs an image"}.items()):
        axes.bar(rows.depth + (at - 0.5) * 0.4, rows[column], 0.4, color=(SKY, GREY)[at], label=label)
    axes.set_yscale("log")
    if len(rows):
        numbers = rows[["params", "macs"]]
        axes.set_ylim(numbers.min().min() / 3, numbers.max().max() * 5)  # with a place for the legend
    axes.legend(ncols=2, loc="upper left")


def _seeds(number: int) -> str:
    return f"{number} seed{'s' if number > 1 else ''}"


def _legend_inside(axes: Axes, title: str) -> None:
    """Draw a legend above the lines, where the axis goes on without numbers."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    axes.set_ylim(low, high + LEGEND * (high - low))
    axes.legend(
        loc="upper left", ncols=2, title=title, alignment="left", title_fontsize=6.5, fontsize=6.5, handlelength=1.8,
        columnspacing=1.0, labelspacing=0.3, borderaxespad=0.1,
    )  # fmt: skip
