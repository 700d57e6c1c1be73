"""A verdict as a table and a few lines of text, or as JSON."""

import json
from collections import Counter

from midstate.verify.judging import BY_CHANCE, DENSE, EMPTY, NEITHER, OBEYS, Layer, Pattern, Verdict

NAMED = 12  # most layers named in a line


def label(pattern: Pattern | None) -> str:
    """The pattern as the field writes it, such as 2:4."""
    return f"{pattern[0]}:{pattern[1]}" if pattern else "-"


def as_json(verdict: Verdict, of_all: bool) -> str:
    """The verdict and all layers, as JSON."""
    layers = [
        {
            **{name: getattr(each, name) for name in ("name", "shape", "dtype", "zeros", "density", "verdict")},
            "pattern": label(each.pattern) if each.pattern else None,
            "along": each.along,
            "axes": {axis: label(pattern) for axis, pattern in each.axes.items()},
        }
        for each in verdict.layers
    ]
    about = {"file": verdict.file, "asked": label(verdict.asked) if verdict.asked else None}
    lists = {name: verdict.named(name) for name in (OBEYS, DENSE, NEITHER, EMPTY)}
    rest = {"masks_not_applied": verdict.masks, "status": verdict.status(of_all), "layers": layers}
    return json.dumps({**about, **lists, **rest}, indent=1)


def as_text(verdict: Verdict, of_all: bool) -> str:
    """A table of the layers, a summary and the conclusion."""
    head = ("layer", "shape", "density", "verdict", "pattern", "along", "filled")
    rows = [head, *map(_row, verdict.layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines = [f"| {line} |" for line in lines]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, "", *_told(verdict), _conclusion(verdict, of_all)])


def _row(layer: Layer) -> tuple[str, ...]:
    """One line of the table; `filled` is the density divided by the pattern's N/M."""
    filled = f"{layer.density * layer.pattern[1] / layer.pattern[0]:.3f}" if layer.pattern else "-"
    few = f", {layer.zeros} zeros" if layer.verdict == DENSE and layer.zeros else ""
    along, shape = ", ".join(layer.along) or "-", "x".join(map(str, layer.shape))
    return layer.name, shape, f"{layer.density:.4f}", layer.verdict + few, label(layer.pattern), along, filled


def _told(verdict: Verdict) -> list[str]:
    obeying = Counter((label(each.pattern), ", ".join(each.along)) for each in verdict.layers if each.pattern)
    lines = [f"{pattern} along {along}: {_layers(count)}" for (pattern, along), count in obeying.most_common()]
    meanings = {
        DENSE: f"dense (at most {100 * BY_CHANCE:g} % zeros)",
        EMPTY: "empty (all zero: any pattern would do)",
        NEITHER: "neither dense nor in a pattern",
    }
    if verdict.asked:
        meanings[NEITHER] = f"neither dense nor {label(verdict.asked)} along any axis"
    for name, meaning in meanings.items():
        if names := verdict.named(name):
            lines.append(f"{meaning}: {_layers(len(names))}: {_some(names)}")
    if verdict.masks:
        lines.append(f"masks in the file that are not applied here: {_some(verdict.masks)}")
    return lines


def _conclusion(verdict: Verdict, of_all: bool) -> str:
    what = label(verdict.asked) if verdict.asked else "a pattern"
    obeying, rest = len(verdict.named(OBEYS)), "no other is dense"
    if not of_all:
        rest = "every other is dense or empty" if verdict.named(EMPTY) else "every other is dense"
    if verdict.status(of_all) == 0:
        return f"yes: {_layers(obeying)} of {len(verdict.layers)} in {what}, and {rest}"
    if not obeying:
        return f"no: none of {_layers(len(verdict.layers))} is in {what}"
    return f"no: {_layers(obeying)} of {len(verdict.layers)} in {what}, but not all that should be"


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
