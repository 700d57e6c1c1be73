"""Rounding that agrees with what a user would compute by hand."""

import math

EPSILON = 1e-9  # floors are floor(x + EPSILON), so that 0.29 * 100 counts as 29


def floor(x: float) -> int:
    """Floor that tolerates rounding errors: floor(x + EPSILON)."""
    return math.floor(x + EPSILON)
