"""The kinds of panel that the figure of a claim is made of; its file in conf/claim says which, and of which arms."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from midstate.runs.drawing import BLUE, COLOURS, GREY, MARKERS, SKY, band
from midstate.study import drawing
from midstate.study import shapes as fitted
from midstate.study.claims import Claim
from midstate.study.drawing import Tables
from midstate.study.endpoints import Endpoint
from midstate.study.figure_plan import Panel
from midstate.study.measuring import margin, measure

DODGE = 0.12  # of a layer, between lines that may coincide
LEGEND = 0.45  # of the lines' height, for a legend above them


def effects(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """Means or differences of arms, one below the other; those without runs are left out."""
    asked = {label: {arm: 1} for arm, label in panel.arms.items()} | panel.rows
    rows = []
    for label, what in asked.items():
        endpoint = claim.named(what) if isinstance(what, str) else Endpoint("", panel.value, "", contrast=what)
        found = measure(endpoint, tables.runs)
        if found:
            rows.append((label, found.effect, found.low, found.high))
    drawing.dots(axes, rows, margin(claim.endpoint, tables.runs) if panel.margin else None)


def points(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """One column an arm: every seed, and the mean."""
    runs = tables.runs
    drawing.points(axes, [(label, runs[runs.arm == arm][panel.value].dropna()) for arm, label in panel.arms.items()])


def gaps(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """Gaps at the probes along the path, a line an arm."""
    for i, (arm, label) in enumerate(panel.arms.items()):
        band(axes, tables.probes[tables.probes.arm == arm], "progress", "gap_bn", label, i)
    axes.axhline(0, color=GREY, lw=0.8)
    axes.legend()
    if panel.shade:
        axes.axvspan(*panel.shade, color=BLUE, alpha=0.06, lw=0)


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
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_title(title)
    axes.legend()


def shapes(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """The primary endpoint's value over the pruning rate, and the five curves fitted to all seeds."""
    rates = claim.endpoint.over
    rows = tables.runs[tables.runs.arm.isin(rates)].assign(rate=lambda table: table.arm.map(rates))
    axes.plot(rows.rate, rows.top1, ".", color=GREY, ms=3, label="runs")
    fits = sorted(fitted.fit_shapes(rows.rate, rows.top1).values(), key=lambda fit: fit.aicc)
    grid = np.linspace(0, max(rates.values()), 200)
    for fit, colour, line in zip(fits, COLOURS, ("-", "--", "-.", ":", (0, (1, 3))), strict=False):
        label = f"{fit.name}, +{fit.aicc - fits[0].aicc:.0f} AICc"
        axes.plot(grid, fitted.predict(fit, grid), color=colour, ls=line, label=label)
    axes.legend(loc="lower left")


def deficits(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """Accuracy missing to the reference over the pruning rate, with a line for each slope endpoint."""
    for i, (label, name) in enumerate(panel.rows.items()):
        slope = claim.named(name)
        against = [Endpoint("", slope.value, "", contrast={slope.reference: 1, arm: -1}) for arm in slope.slope]
        found = [measure(each, tables.runs) for each in against]
        mean, low, high = (np.array([getattr(each, key) for each in found]) for key in ("effect", "low", "high"))
        errors, rates = [mean - low, high - mean], list(slope.slope.values())
        axes.errorbar(rates, mean, yerr=errors, marker=MARKERS[i], ms=4, color=COLOURS[i], label=label)
    axes.axhline(0, color=GREY, lw=0.8)
    axes.axhline(1, color=GREY, lw=0.8, ls=":")
    axes.legend()


def levels(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """What each layer is left over depth, a line an arm; arms without rows are named as not run."""
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
    """Parameters and MACs of the layers of the first arm with rows."""
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
    """A legend above the lines: the scale goes on there, its numbers do not."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    axes.set_ylim(low, high + LEGEND * (high - low))
    axes.legend(
        loc="upper left", ncols=2, title=title, alignment="left", title_fontsize=6.5, fontsize=6.5, handlelength=1.8,
        columnspacing=1.0, labelspacing=0.3, borderaxespad=0.1,
    )  # fmt: skip
