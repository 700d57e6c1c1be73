"""The kinds of panel that the figure of a claim is made of; its file in conf/claim says which, and of which arms."""

import numpy as np
from matplotlib.axes import Axes

from midstate.runs.drawing import BLUE, COLOURS, GREY, MARKERS, band
from midstate.study import drawing
from midstate.study import shapes as fitted
from midstate.study.claims import Claim, Endpoint
from midstate.study.drawing import Tables
from midstate.study.figure_plan import Panel
from midstate.study.verdicts import margin, measure


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
    rows = tables.sensitivity[(tables.sensitivity.kind == "share") & (tables.sensitivity.arm == arm)]
    for i, (size, stage) in enumerate(rows.groupby("params")):
        band(axes, stage, "depth", "loss_rise", f"{size:,} weights", i)
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
