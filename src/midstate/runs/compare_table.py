"""The table of compared runs, for a terminal."""

import shutil
from collections.abc import Sequence

from midstate.common.intervals import mean_interval
from midstate.runs.groups import Group

COLUMNS = ("n", "top-1 %", "95 % interval", "parameters", "MACs", "gap", "time")


def table(groups: Sequence[Group]) -> str:
    """One row of means per group, in the given order; labels stand before the rows, or above if lines get too long."""
    rows = [_cells(group) for group in groups]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (COLUMNS, *rows)]
    names = ["", *(group.label for group in groups)]
    room = max(map(len, names))
    if room + 2 + len(lines[0]) <= shutil.get_terminal_size().columns:
        body = [f"{name:<{room}}  {line}" for name, line in zip(names, lines, strict=True)]
    else:
        body = [text for name, line in zip(names, lines, strict=True) for text in (*filter(None, [name]), f"  {line}")]
    return "\n".join(["", *body, *_notes(groups)])


def _cells(group: Group) -> tuple[str, ...]:
    mean, low, high = mean_interval(group.values("top1"))
    gaps = group.values("top1_gap")
    return (
        str(len(group.runs)),
        f"{mean:.2f}",
        f"[{low:.2f}, {high:.2f}]" if len(group.runs) > 1 else "-",
        f"{_mean(group, 'params_nonzero'):,.0f}",
        f"{_mean(group, 'macs_sparse'):,.0f}",
        f"{mean_interval(gaps)[0]:+.1f}" if gaps else "-",
        _time(_mean(group, "wall_seconds")),
    )


def _mean(group: Group, measure: str) -> float:
    return mean_interval(group.values(measure))[0]


def _time(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _notes(groups: Sequence[Group]) -> list[str]:
    """Meaning of the numbers, and groups whose interval is not over seeds."""
    measured = sorted({str(run.summary.get("final_images", "test")) for group in groups for run in group.runs})
    notes = [
        f"top-1: {' or '.join(measured)} data, last epoch; parameters: not zero; MACs: an image; "
        "gap: top-1 lost at the last jump"
    ]
    if len(measured) > 1:
        notes.append("some runs end on validation data, others on test data: these are not to be compared")
    if mixed := [each.label for each in groups if each.num_configurations > 1]:
        notes.append(
            f"several configurations are in {', '.join(mixed)}: its interval is over these runs, not over seeds"
        )
    if len({each.runs[0].summary["data"] for each in groups}) > 1:
        notes.append("the data differ: top-1 is of different test images")
    return notes
