"""The kinds of panel that show a value over pruning rates or over what an arm spends."""

import numpy as np
from matplotlib.axes import Axes

from midstate.runs.drawing import BLUE, COLOURS, GREY, MARKERS, ORANGE
from midstate.study import drawing
from midstate.study import shapes as fitted
from midstate.study.claims import Claim
from midstate.study.drawing import SMALL, Tables
from midstate.study.endpoints import Endpoint
from midstate.study.figure_plan import Panel
from midstate.study.measuring import Measured, estimated, measure

LINES = ("-", "--", "-.", (0, (1, 1.2)), (0, (6, 2, 1, 2, 1, 2)))


def shapes(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """The primary endpoint's value over the pruning rate, and the five curves fitted to all seeds."""
    rates, floor = claim.endpoint.over, claim.endpoint.floor
    rows = tables.runs[tables.runs.arm.isin(rates)].assign(rate=lambda table: table.arm.map(rates))
    axes.plot(rows.rate, rows.top1, ".", color=GREY, ms=3, label="runs")
    fits = sorted(fitted.fit_shapes(rows.rate, rows.top1, floor).values(), key=lambda fit: fit.aicc)
    grid = np.linspace(0, max(rates.values()), 200)
    for fit, colour, line in zip(fits, COLOURS, LINES, strict=False):
        label = f"{fit.name}, +{fit.aicc - fits[0].aicc:.0f} AICc"
        axes.plot(grid, fitted.predict(fit, grid, floor), color=colour, ls=line, lw=1.3, label=label)
    axes.set_ylim(0, 100)
    if panel.chance is not None:
        drawing.chance(axes, panel.chance)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 0.13),
        fontsize=SMALL,
        title=f"SESOI: {claim.endpoint.sesoi:g} AICc",
        title_fontsize=SMALL,
    )


def deficits(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """Accuracy of arms with runs below the reference's over the pruning rate, a line for each slope endpoint."""
    for i, (label, name) in enumerate(panel.rows.items()):
        slope = claim.named(name)
        found = _measured(slope.value, {arm: {slope.reference: 1, arm: -1} for arm in slope.slope}, tables)
        if not found:
            continue
        rates = [slope.slope[arm] for arm in found]
        means = _with_bars(axes, rates, list(found.values()), i, label)
        if slope is claim.endpoint and (steepness := measure(slope, tables.runs)):
            _line(axes, rates, means, steepness.effect, f"the endpoint's slope: {steepness.effect:+.0f} {slope.unit}")
    axes.axhline(0, color=GREY, lw=0.8)
    place, left = {"textcoords": "offset points", "va": "top"}, min(slope.slope.values())
    axes.annotate("as good as the dense network", (left, 0), (0, -2), fontsize=SMALL, **place)
    axes.legend(fontsize=SMALL)


def recovered(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """The share of the damage that finetuning makes good over the pruning rate, and the endpoint's slope."""
    endpoint = claim.endpoint
    runs, arms = tables.runs, [*endpoint.over, endpoint.reference]
    before, after = (
        runs.pivot(index="seed", columns="arm", values=column).dropna(subset=arms)
        for column in ("just_pruned", "recovered")
    )
    rates = list(endpoint.over.values())
    damage = {arm: after[endpoint.reference] - before[arm] for arm in endpoint.over}
    found = [estimated((after[arm] - before[arm]) / damage[arm], np.zeros(len(after))) for arm in endpoint.over]
    means = _with_bars(axes, rates, found, 0, "share recovered")
    slope = measure(endpoint, tables.runs)
    _line(axes, rates, means, slope.effect, f"the endpoint's slope: {slope.effect:+.2f} {endpoint.unit}")
    _line(axes, rates, means, -endpoint.sesoi, f"SESOI: {-endpoint.sesoi:+g}", GREY)
    axes.axhline(0.5, color=GREY, lw=0.8, ls=":")
    axes.legend(fontsize=SMALL)


def trend(axes: Axes, panel: Panel, claim: Claim, tables: Tables) -> None:
    """A value of arms with runs over the endpoint's measured column (log scale), with the endpoint's slope."""
    endpoint = claim.endpoint
    means = tables.runs.groupby("arm")[[endpoint.value, endpoint.against]].mean()
    reference = means.loc[endpoint.reference] if endpoint.reference else None
    base = {} if reference is None else {endpoint.reference: -1}
    found = _measured(endpoint.value, {arm: {arm: 1, **base} for arm in panel.arms}, tables)
    x = {arm: means[endpoint.against][arm] + endpoint.offset for arm in found}
    x = x if reference is None else {arm: each / reference[endpoint.against] for arm, each in x.items()}
    places = np.log2(list(x.values()))
    centres = _with_bars(axes, places, list(found.values()), 0, "", line="none")
    for i, (at, mean, arm) in enumerate(zip(places, centres, found, strict=True)):
        place = (4, 4 if i % 2 else -9)
        axes.annotate(panel.arms[arm], (at, mean), place, textcoords="offset points", fontsize=SMALL)
    slope = measure(endpoint, tables.runs)
    _line(axes, places, centres, slope.effect, f"the endpoint's slope: {slope.effect:+.2f} {endpoint.unit}")
    _line(axes, places, centres, endpoint.sesoi, f"SESOI: {endpoint.sesoi:+g}", GREY)
    axes.set_xticks(
        ticks := np.arange(np.floor(min(places)), np.ceil(max(places)) + 0.1), [f"{2**each:.2g}" for each in ticks]
    )
    axes.legend(fontsize=SMALL)


def _measured(value: str, contrasts: dict[str, dict[str, float]], tables: Tables) -> dict[str, Measured]:
    """The contrast of each arm; arms without runs of two seeds are left out."""
    found = {arm: measure(Endpoint("", value, "", contrast=each), tables.runs) for arm, each in contrasts.items()}
    return {arm: each for arm, each in found.items() if each}


def _with_bars(axes: Axes, x, found: list[Measured], index: int, label: str, line: str = "-") -> np.ndarray:
    """Draw means with their intervals; return the means."""
    mean, low, high = (np.array([getattr(each, key) for each in found]) for key in ("effect", "low", "high"))
    style = {"marker": MARKERS[index], "ms": 4, "color": (BLUE, *COLOURS[2:])[index], "ls": line, "capsize": 2}
    axes.errorbar(x, mean, yerr=[mean - low, high - mean], label=label or None, lw=1.3, **style)
    return mean


def _line(axes: Axes, x, means: np.ndarray, slope: float, label: str, colour: str = ORANGE) -> None:
    """Draw a line of a given slope through the centre of the points."""
    x = np.array(x)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, means.mean() + slope * (ends - x.mean()), color=colour, lw=1.6, ls="--", label=label)
