"""Rounding that agrees with what a user would compute by hand."""

import math

EPSILON = 1e-9  # floors are floor(x + EPSILON), so that 0.3 * 10 counts as 3


def floor(x: float) -> int:
    """Floor that forgives the last bits of floating point."""
    return math.floor(x + EPSILON)
