"""Scores from a file: the loss that each level of each layer costs, as `scripts/sensitivity.py` measures it."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from midstate.common import checks
from midstate.sparsity.allocations.scheme import content_digest
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern

COLUMNS = ("layer", "params", "kind", "level", "full", "loss_rise")
KINDS = {"weight": ("weights",), "filter": ("filters",), "nm": ("nm",), "bits": ("bits", "input_bits")}  # by pattern


@dataclass(frozen=True)
class Row:
    """One line of the table: a layer at a level."""

    layer: str
    params: int
    kind: str
    level: int
    full: int  # the level that the layer had before
    loss_rise: float


@dataclass(frozen=True)
class Scores:
    """Rises of the loss with one layer alone at a level."""

    path: str
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: str) -> "Scores":
        """Read a table.

        Raises:
            ValueError: the file cannot be read, or lacks a column.
        """
        try:
            with Path(checks.text("scores", path)).open(newline="") as file:
                found = list(csv.DictReader(file))
        except OSError as error:
            raise ValueError(f"scores={path!r}: cannot be read ({error.strerror})") from error
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"scores={path!r}: is no table ({error})") from error
        if not found or not set(COLUMNS) <= set(found[0]):
            raise ValueError(
                f"scores={path!r}: must have the columns {', '.join(COLUMNS)}, as scripts/sensitivity.py writes them"
            )
        try:
            return cls(path, tuple(_row(each) for each in found if each["kind"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"scores={path!r}: a row is not readable ({error})") from error

    def digest(self) -> str:
        """Identify the content, whatever its layout and its other columns."""
        return content_digest([list(vars(row).values()) for row in self.rows])

    def losses(self, pattern: Pattern, layer: LayerView, levels: Sequence[Level]) -> list[float]:
        """Rise of the loss at levels of a layer, interpolated between the table's; for pairs, both rises are added.

        Raises:
            ValueError: the table is of another network, or lacks a kind or level that is asked for.
        """
        kinds = KINDS.get(pattern.name, ())
        if not kinds:
            raise ValueError(f"scores={self.path!r}: pattern={pattern.name} is not measured by scripts/sensitivity.py")
        if not isinstance(levels[0], tuple):
            return self._of(pattern, layer, kinds[0], levels)
        parts = [self._of(pattern, layer, kind, [level[k] for level in levels]) for k, kind in enumerate(kinds)]
        return [sum(each) for each in zip(*parts, strict=True)]

    def _of(self, pattern: Pattern, layer: LayerView, kind: str, levels: Sequence[int]) -> list[float]:
        import numpy as np

        rows = [row for row in self.rows if row.layer == layer.name]
        if not rows or rows[0].params != layer.shape.numel():
            has = f"{rows[0].params} weights there, {layer.shape.numel()} here" if rows else "is not in it"
            raise ValueError(f"scores={self.path!r}: is of another network: {layer.name} {has}")
        points = self._points(rows, kind, getattr(pattern, "m", None) if kind == "nm" else None)
        if not points:
            m = f" of m={pattern.m}" if kind == "nm" else ""
            raise ValueError(
                f"scores={self.path!r}: has no {kind}{m} of {layer.name}; measure it: scripts/sensitivity.py --kinds "
                f"{kind} --levels {kind}=..."
            )
        if min(levels) < min(points):
            raise ValueError(
                f"scores={self.path!r}: {layer.name} is measured down to {kind} {min(points)}, and {min(levels)} is "
                f"asked for; measure it, or choose among higher `levels`"
            )
        at = sorted(points)
        return np.interp(levels, at, [points[each] for each in at]).tolist()

    @staticmethod
    def _points(rows: Sequence[Row], kind: str, m: int | None) -> Mapping[int, float]:
        """Rise of the loss by level, 0 at the full one; for filters, a layer emptied of weights counts as level 0."""
        chosen = [row for row in rows if row.kind == kind and (m is None or row.full == m)]
        if not chosen:
            return {}
        if kind == "filters":
            chosen = [row for row in rows if row.kind == "weights" and row.level == 0] + chosen
        return {**{row.level: row.loss_rise for row in chosen}, chosen[-1].full: 0.0}


def _row(each: Mapping[str, str]) -> Row:
    rise = float(each["loss_rise"])
    if not math.isfinite(rise):
        raise ValueError(f"loss_rise={rise} of {each['layer']}: must be a finite number")
    numbers = [int(each[name]) for name in ("params", "level", "full")]
    return Row(each["layer"], numbers[0], each["kind"], *numbers[1:], rise)
