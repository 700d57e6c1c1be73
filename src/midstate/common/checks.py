"""Checks of single values: each returns the value, or raises a ValueError that names field, value and what is allowed.

Imports nothing heavy: `train.py --help` and a refused override must answer at once.
"""

import difflib
import math
import sys
from collections.abc import Iterable
from numbers import Integral, Real


def near(typed: str, known: list[str], cutoff: float = 0.6) -> str:
    """Suggest the known names nearest to a typed one; nothing where none is near."""
    found = difflib.get_close_matches(typed, known, n=2, cutoff=cutoff)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` if it is a whole number in [low, high]; a bool is not a number here."""
    allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number, {low} or more"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name}={value!r}: must be {allowed}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name}={value!r}: must be {allowed}")
    return int(value)


def number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` if it is a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name}={value!r}: must be a finite number{_range(low, high)}")
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r}: must be a number{_range(low, high)}")
    return float(value)


def boolean(name: str, value: object) -> bool:
    """Return `value` if it is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: must be true or false")
    return value


def text(name: str, value: object) -> str:
    """Return `value` if it is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={value!r}: must be a text that is not empty")
    return value


def texts(name: str, value: object, such_as: str) -> list[str]:
    """Return `value` if it is a list of texts, possibly empty."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name}={value!r}: must be a list such as [{such_as}]")
    return list(value)


def one_of(name: str, value: object, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`; the error suggests the nearest one."""
    options = list(options)
    if not isinstance(value, str) or value not in options:
        near = difflib.get_close_matches(str(value), options, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(options)}{hint}")
    return value


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return "" if math.isinf(low) else f", {low:g} or more"
    return f" from {low:g} to {high:g}"
