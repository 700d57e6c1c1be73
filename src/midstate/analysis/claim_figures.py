"""One figure a claim, and the article's own; each shows means and 95 % intervals over seeds."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midstate.analysis import shapes
from midstate.analysis.claims import Claim, Endpoint, in_words
from midstate.analysis.drawing import (
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    PAGE,
    STYLE,
    Tables,
    band,
    dots,
    panels,
    points,
    save,
)
from midstate.analysis.verdicts import margin, measure


@dataclass(frozen=True)
class Drawn:
    """A figure as it lies on disk, and which runs it shows."""

    path: Path
    runs: str


def draw_claims(
    claims: list[Claim], tables: Tables, folder: Path, powerless: Collection[tuple[str, str]] = ()
) -> dict[str, Drawn]:
    """Draw every claim that has runs, in the first cell that has them; the article's figure under `article`.

    Args:
        claims: to draw.
        tables: all rows.
        folder: for the files.
        powerless: name and overrides of cells in which nothing can be concluded: drawn only where there is no other.
    """
    drawn = {}
    for claim in claims:
        cells = [(scale, cell) for scale in ("full", "quick") for cell in claim.cells(scale)]  # the larger, if there
        cells.sort(key=lambda each: (claim.claim, " ".join(each[1])) in powerless)
        for scale, cell in cells:
            rows = tables.cell(" ".join(cell))
            if rows.has(claim.arms_in(cell)):
                figure = save(draw(claim, rows), folder, claim.claim.lower())
                drawn[claim.claim] = Drawn(figure, in_words(scale, cell))
                break
    for scale, cell in (("full", ("trainer.epochs=15",)), ("quick", ())):
        rows = tables.cell(" ".join(cell))
        if rows.has(_ARTICLE):
            with plt.rc_context(STYLE):
                drawn["article"] = Drawn(save(article(rows), folder, "article"), in_words(scale, cell))
            break
    return drawn


def draw(claim: Claim, tables: Tables) -> Figure:
    """Draw the figure of one claim from the rows of one cell."""
    with plt.rc_context(STYLE):
        return _FIGURES.get(claim.claim, _endpoints)(claim, tables)


_ARTICLE = {"c10_default": "Default", "c10_inverse": "Inverse", "c8_n_1of16": "N-M"}


def article(tables: Tables) -> Figure:
    """The article's lost figure: its three curves over epochs, the path below, gaps beside; axes inferred."""
    figure = plt.figure(figsize=(PAGE, 3.3))
    axes = figure.subplot_mosaic([["curves", "gaps"], ["path", "gaps"]], height_ratios=[3, 1])
    for i, (arm, label) in enumerate(_ARTICLE.items()):
        epochs, probes = (table[table.arm == arm] for table in (tables.epochs, tables.probes))
        band(axes["curves"], epochs, "epoch", "val/top1", label, i)
        band(axes["gaps"], probes, "progress", "gap_bn", label, i)
        kept = epochs.groupby("epoch").kept.mean()
        axes["path"].plot([0, *kept.index], [100, *(100 * kept)], color=COLOURS[i], ls=("-", "--", ":")[i], lw=1.3)
    axes["curves"].sharex(axes["path"])
    axes["curves"].tick_params(labelbottom=False)
    axes["curves"].set_ylabel("validation top-1 (%)")
    axes["curves"].legend()
    axes["path"].set_ylabel("kept (%)")
    axes["path"].set_xlabel("epoch (axes inferred)")
    axes["path"].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes["gaps"].axhline(0, color=GREY, lw=0.8)
    axes["gaps"].set_xlabel("progress along the path to 1:16")
    axes["gaps"].set_ylabel("gap at the jump (points)")
    return figure


def _endpoints(claim: Claim, tables: Tables) -> Figure:
    """For a claim without a figure of its own: every endpoint in the unit of the primary one."""
    figure, (axes,) = panels(1, 3.2)
    same = [each for each in (claim.endpoint, claim.control, *claim.secondary) if each.unit == claim.endpoint.unit]
    found = [(each.name, measure(each, tables.runs)) for each in same]
    dots(axes, [(name, each.effect, each.low, each.high) for name, each in found if each], claim.endpoint.sesoi)
    axes.set_xlabel(claim.endpoint.unit)
    return figure


def _c1(claim: Claim, tables: Tables) -> Figure:
    """Every cell of the grid: allocation minus uniform, at equal parameters and at equal MACs."""
    figure, axes = panels(2, 4.2)
    for panel, suffix, title in zip(axes, ("", "_macs"), ("equal parameters", "equal MACs"), strict=True):
        rows = []
        for kind, rates in (("weights", (80, 95)), ("filters", (30, 60))):
            for rate in rates:
                for allocation in ("uniform_plus", "erk", "global", "lamp"):
                    arm = f"c1_{kind}_{allocation}_{rate}{suffix}"
                    found = _difference(tables, arm, f"c1_{kind}_uniform_{rate}")
                    if found:
                        rows.append((f"{kind} {rate} %, {allocation}", *found))
        if suffix == "":
            total = measure(claim.endpoint, tables.runs)
            rows.append(("all, the endpoint", total.effect, total.low, total.high))
        dots(panel, rows, claim.endpoint.sesoi)
        panel.set_xlabel("top-1, non-uniform - uniform (points)")
        panel.set_title(title)
    return figure


def _difference(tables: Tables, plus: str, minus: str, value: str = "top1") -> tuple[float, float, float] | None:
    """Effect and interval of one arm minus another; None where there are no runs of either."""
    found = measure(Endpoint("", value, "", contrast={plus: 1, minus: -1}), tables.runs)
    return found and (found.effect, found.low, found.high)


def _c2(claim: Claim, tables: Tables) -> Figure:
    """Sensitivity over depth, layers of one size beside a ResNet whose layers grow."""
    figure, axes = panels(2)
    rows = tables.sensitivity[tables.sensitivity.kind == "share"]
    for panel, arm, title in zip(
        axes, ("c2_isotropic", "c2_resnet20"), ("layers of one size", "ResNet-20"), strict=True
    ):
        arms = rows[rows.arm == arm]
        for i, (size, stage) in enumerate(arms.groupby("params")):
            band(panel, stage, "depth", "loss_rise", f"{size:,} weights", i)
        panel.set_yscale("symlog", linthresh=0.1)
        panel.set_xlabel("depth of the layer")
        panel.set_title(title)
        panel.legend(fontsize=7)
    axes[0].set_ylabel("rise of the loss (nats)")
    return figure


def _c3(claim: Claim, tables: Tables) -> Figure:
    """Accuracy over the pruning rate, and the five curves fitted to all seeds."""
    figure, (axes,) = panels(1, 3.0)
    rates = claim.endpoint.over
    rows = tables.runs[tables.runs.arm.isin(rates)].assign(rate=lambda table: table.arm.map(rates))
    axes.plot(rows.rate, rows.top1, ".", color=GREY, ms=3, label="runs")
    fits = shapes.fit_shapes(rows.rate, rows.top1)
    grid = np.linspace(0, max(rates.values()), 200)
    best = min(fit.aicc for fit in fits.values())
    for i, fit in enumerate(sorted(fits.values(), key=lambda fit: fit.aicc)):
        label = f"{fit.name}, +{fit.aicc - best:.0f} AICc"
        axes.plot(
            grid, shapes.predict(fit, grid), color=COLOURS[i], ls=("-", "--", "-.", ":", (0, (1, 3)))[i], label=label
        )
    axes.set_xlabel("pruning rate")
    axes.set_ylabel("top-1 (%)")
    axes.legend(fontsize=7, loc="lower left")
    return figure


def _c4(claim: Claim, tables: Tables) -> Figure:
    """The deficit left after finetuning, over the rate, at two learning rates."""
    figure, (axes,) = panels(1)
    fast = claim.secondary[0]
    for i, (endpoint, label) in enumerate(((claim.endpoint, "learning rate 0.01"), (fast, "learning rate 0.03"))):
        at, found = [], []
        for arm, rate in endpoint.slope.items():
            at.append(rate)
            found.append(_difference(tables, endpoint.reference, arm))
        mean, low, high = map(np.array, zip(*found, strict=True))
        axes.errorbar(at, mean, yerr=[mean - low, high - mean], marker=MARKERS[i], ms=4, color=COLOURS[i], label=label)
    axes.axhline(0, color=GREY, lw=0.8)
    axes.axhline(1, color=GREY, lw=0.8, ls=":")
    axes.set_xlabel("pruning rate")
    axes.set_ylabel("deficit left (points of top-1)")
    axes.legend()
    return figure


def _c5(claim: Claim, tables: Tables) -> Figure:
    """Top-1 at 1:8, 2:8, 4:8 and dense; exchanged schemes beside."""
    figure, axes = panels(2, ratios=[1.2, 1])
    arms = {"c5_1of8": "1:8", "c5_2of8": "2:8", "c5_4of8": "4:8", "c2_resnet20": "dense"}
    points(axes[0], [(label, _values(tables, arm)) for arm, label in arms.items()])
    axes[0].set_ylabel("top-1 (%)")
    names = ("loss - gain", "4:8 - 1:8 (control)", "exchange 2/3 down, 1/3 up", "", "shallow down", "deep down")
    chosen = [claim.endpoint, claim.control, claim.secondary[0], None, claim.secondary[2], claim.secondary[3]]
    found = [(name, measure(each, tables.runs)) for name, each in zip(names, chosen, strict=True) if each]
    dots(axes[1], [(name, each.effect, each.low, each.high) for name, each in found if each], claim.endpoint.sesoi)
    axes[1].set_xlabel("points")
    return figure


def _c6(claim: Claim, tables: Tables) -> Figure:
    """Gain of every scheme over the uniform one of its kind, with the margin."""
    figure, (axes,) = panels(1, 3.2)
    names = {
        "c6_sensitivity": "sensitivity, 1 2 4 8", "c6_error_4_levels": "weight error, 1 2 4 8",
        "c6_error_8_levels": "weight error, 1 to 8", "c6_error_filters": "weight error, each filter",
        "c6_error_weights": "weight error, single weights", "c6_erk": "ERK, 1 2 4 8", "c6_random": "random, 1 2 4 8",
        "c6_error_both": "weight error, MACs no more, too", "c6_erk_both": "ERK, MACs no more, too",
        "c6_collapsed": "collapsed (control)",
    }  # fmt: skip
    rows = []
    for arm, label in names.items():
        uniform = "c6_weights" if arm == "c6_error_weights" else "c5_2of8"
        rows.append((label, *_difference(tables, arm, uniform)))
    dots(axes, rows, margin(claim.endpoint, tables.runs))
    axes.set_xlabel("top-1, mixed - uniform (points)")
    return figure


def _c7(claim: Claim, tables: Tables) -> Figure:
    """How unstable the loss is, and how much flips."""
    figure, axes = panels(2)
    arms = ("live", "once", "hysteresis", "uniform", "swaps", "swaps_10x")
    labels = ["live", "once", "hyst.", "uniform", "swaps", "swaps\n10x"]
    for panel, value, name in (
        (axes[0], "log_loss_variance", "log variance around the median"),
        (axes[1], "flipflop", "filters that changed twice (share)"),
    ):
        points(panel, [(label, _values(tables, f"c7_{arm}", value)) for arm, label in zip(arms, labels, strict=True)])
        panel.set_ylabel(name)
    return figure


def _values(tables: Tables, arm: str, value: str = "top1") -> pd.Series:
    return tables.runs[tables.runs.arm == arm][value].dropna()


def _gaps(tables: Tables, arms: dict[str, str], value: str, name: str) -> Figure:
    """Gaps at the probes along the path, and one number of every arm beside."""
    figure, axes = panels(2, 3.0, ratios=[1.35, 1])
    for i, (arm, label) in enumerate(arms.items()):
        band(axes[0], tables.probes[tables.probes.arm == arm], "progress", "gap_bn", label, i)
    axes[0].axhline(0, color=GREY, lw=0.8)
    axes[0].set_xlabel("progress along the path")
    axes[0].set_ylabel("gap at the jump (points)")
    axes[0].legend(fontsize=7)
    rows = []
    for arm, label in {**arms, "c9_one_shot": "one jump at the end"}.items():
        found = measure(Endpoint("", value, "", contrast={arm: 1}), tables.runs)
        if found:
            rows.append((label, found.effect, found.low, found.high))
    dots(axes[1], rows)
    axes[1].set_xlabel(name)
    return figure


def _c8(claim: Claim, tables: Tables) -> Figure:
    arms = {
        "c8_n_1of16": "N to 1:16", "c8_n_halves": "N to 1:16 by halves", "c8_n_1of4": "N to 1:4",
        "c8_n_8of16": "N to 8:16", "c8_n_2of4": "N to 2:4", "c8_weights": "single weights", "c8_filters": "filters",
    }  # fmt: skip
    return _gaps(tables, arms, "gap_last", "gap of the last jump (points)")


def _c9(claim: Claim, tables: Tables) -> Figure:
    arms = {
        "c8_n_1of16": "n", "c9_n_dithered": "n dithered", "c9_n_s_ste": "n, soft thresholds",
        "c9_blocks_staircase": "blocks, n's staircase", "c10_default": "blocks",
    }  # fmt: skip
    return _gaps(tables, arms, "gap_max", "largest gap of the ramp (points)")


def _c10(claim: Claim, tables: Tables) -> Figure:
    arms = {
        "c10_default": "Default", "c10_inverse": "Inverse", "c10_random": "random",
        "c10_random_tick": "random each tick", "c10_default_sticky": "Default, sticky",
        "c10_inverse_sticky": "Inverse, sticky", "c8_n_1of16": "N-M",
    }  # fmt: skip
    figure = _gaps(tables, arms, "gap_last_third", "mean gap in the last third (points)")
    figure.axes[0].axvspan(2 / 3, 1, color=BLUE, alpha=0.06, lw=0)
    return figure


_FIGURES: dict[str, Callable[[Claim, Tables], Figure]] = {
    "C1": _c1, "C2": _c2, "C3": _c3, "C4": _c4, "C5": _c5, "C6": _c6, "C7": _c7, "C8": _c8, "C9": _c9, "C10": _c10,
}  # fmt: skip
