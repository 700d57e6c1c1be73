"""The figure of the answer: gain of schemes over uniform against their MACs."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from midstate.runs.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE
from midstate.study.answer import words
from midstate.study.costs import Scheme
from midstate.study.drawing import SMALL, STYLE, save, small
from midstate.study.figures import Drawn

COLOURS = {"weights": BLUE, "filters": ORANGE, "N:M a layer": GREEN, "N:M a filter": PURPLE, "reference": "#333333"}
MARKERS = {"params": ("o", True), "macs": ("s", False), "both": ("o", False), "nothing": ("*", True)}  # marker, filled
APART = 0.16  # doublings of MACs over which points at equal MACs are spread, so that none covers another
HELD = {
    "params": "equal parameters",
    "both": "equal parameters and MACs",
    "macs": "equal MACs, parameters free",
    "nothing": "reference",
}


def draw_answer(schemes: Sequence[Scheme], folder: Path) -> Drawn:
    """Draw every scheme as a point: gain over uniform with its interval, against the ratio of MACs."""
    sesoi = words()["figure"]["sesoi"]
    with plt.rc_context({**STYLE, "font.size": 9}):
        figure, axes = plt.subplots(figsize=(4.7, 4.7))
        small(axes, sesoi)
        axes.axvline(1, color=GREY, lw=0.8)
        equal = [scheme for scheme in schemes if scheme.holds in ("macs", "both")]
        for scheme in schemes:
            apart = APART * (equal.index(scheme) / len(equal) - 0.5) if scheme in equal else 0
            _point(axes, scheme, scheme.ratios["macs"] * 2**apart)
        axes.set_xscale("log", base=2)
        ticks = [tick for tick in (0.5, 0.7, 1, 1.4, 2, 3, 4, 6, 8, 12) if _within(axes, tick)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("MACs, ratio to the uniform network's")
        axes.set_ylabel("gain over uniform (points of top-1)")
        figure.legend(handles=_legend(schemes), loc="outside lower center", ncols=2, fontsize=8)
    seeds = sorted({scheme.gain.seeds for scheme in schemes})
    n = " or ".join(f"{each}" for each in seeds)
    return Drawn(
        save(figure, folder, "answer"),
        "full, the experiments as they are",
        f"n = {n} seeds a point. Points at equal MACs are moved apart a little.",
        True,
    )


def _point(axes: Axes, scheme: Scheme, x: float) -> None:
    gain, colour = scheme.gain, COLOURS[scheme.pattern]
    marker, filled = MARKERS[scheme.holds]
    error = [[gain.effect - gain.low], [gain.high - gain.effect]]
    axes.errorbar(
        x, gain.effect, yerr=error, fmt=marker, ms=8 if marker == "*" else 5, color=colour,
        mfc=colour if filled else "white", mew=1.2, lw=0.9, capsize=1.5,
    )  # fmt: skip
    if scheme.pattern == "reference":
        label = f"{scheme.label}\n(to {scheme.rate})"
        place = {"xytext": (-6, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        axes.annotate(label, (x, gain.effect), fontsize=SMALL, **place)


def _within(axes: Axes, tick: float) -> bool:
    low, high = axes.get_xlim()
    return low <= tick <= high


def _legend(schemes: Sequence[Scheme]) -> list[Line2D]:
    """Legend of the shown schemes: colours by pattern, then markers by the cost held equal."""
    patterns = [name for name in COLOURS if name != "reference" and any(s.pattern == name for s in schemes)]
    held = [name for name in HELD if name != "nothing" and any(s.holds == name for s in schemes)]
    shown = [Line2D([], [], marker="o", ls="", ms=5, color=COLOURS[name], label=name) for name in patterns]
    return shown + [
        Line2D([], [], marker=MARKERS[name][0], ls="", ms=5, color="#333333", label=HELD[name],
               mfc="#333333" if MARKERS[name][1] else "white")
        for name in held
    ]  # fmt: skip
