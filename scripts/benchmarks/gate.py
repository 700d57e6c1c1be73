"""gate: whether the ratios that matter still hold, with slack for noise; the exit status is 1 where one does not.

Only ratios are checked: a machine that is half as fast is so in all the ways compared. A limit that is broken is
measured a second time before it counts.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import data, mask, startup, step

Rows = list[dict[str, Any]]

FASTER = "times faster than argsort+scatter"
# What is measured, how it is read off the rows, and the most it may be. Goals are stricter; see docs/speed.md.
Limits = dict[str, tuple[Callable[[Rows], float], float]]
MASK: Limits = {
    "1:16 masks (argsort+scatter)": (lambda rows: 1 / _of(rows, masks="1:16")[FASTER], 0.33),
    "2:4 masks (argsort+scatter)": (lambda rows: 1 / _of(rows, masks="2:4")[FASTER], 0.5),
    "8:16 masks (argsort+scatter)": (lambda rows: 1 / _of(rows, masks="8:16")[FASTER], 0.5),
    "half of the blocks (copies)": (lambda rows: _of(rows, masks="1:16 on half of the blocks")["ours, copies"], 30),
    "multi-axis masks (copies)": (lambda rows: _of(rows, masks="the same, multi-axis")["ours, copies"], 75),
}
STEP: Limits = {
    "nm_block at every step (dense steps)": (lambda rows: _ratio(rows, "nm_block", "every_step"), 1.25),
    "nm_block at every epoch (dense steps)": (lambda rows: _ratio(rows, "nm_block", "every_epoch"), 1.15),
    "maxq at every step (dense steps)": (lambda rows: _ratio(rows, "maxq", "every_step"), 1.5),
    "maxq at every epoch (dense steps)": (lambda rows: _ratio(rows, "maxq", "every_epoch"), 1.15),
}
DATA: Limits = {
    "loading, largest share of a step (%)": (lambda rows: max(row["share of a step (%)"] for row in rows), 5)
}
STARTUP: Limits = {"--help (imports of torch)": (lambda rows: _of(rows, what="train.py --help")["ratio"], 0.5)}
LIMITS: dict[str, tuple[Callable[[int], Rows], Limits]] = {
    "mask": (mask.measure, MASK),
    "step": (lambda repeats: step.measure(repeats, methods=("nm_block", "maxq")), STEP),
    "data": (data.measure, DATA),
    "startup": (startup.measure, STARTUP),
}


def measure(repeats: int) -> Rows:
    """One row a limit."""
    rows = []
    for bench, limits in LIMITS.values():
        found = judged(bench(repeats), limits)
        rows += found if all(row["holds"] for row in found) else judged(bench(2 * repeats), limits)
    return rows


def judged(rows: Rows, limits: Limits) -> Rows:
    """One row a limit: what was measured, and whether it holds."""
    measured = {name: read(rows) for name, (read, _) in limits.items()}
    return [
        {"what": name, "measured": round(measured[name], 3), "at most": most, "holds": bool(measured[name] <= most)}
        for name, (_, most) in limits.items()
    ]


def _of(rows: Rows, **having: str) -> dict[str, Any]:
    return next(row for row in rows if all(row[key] == value for key, value in having.items()))


def _ratio(rows: Rows, pruner: str, refresh: str) -> float:
    return _of(rows, settings="fp32", pruner=pruner, refresh=refresh)["ratio_to_dense"]
