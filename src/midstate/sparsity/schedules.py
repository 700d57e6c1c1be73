"""Schedules: how far along its path a run is at a given step.

A curve maps the window's time x in [0, 1] to progress p in [0, 1]; a window places it in the run.
Both are pure functions of the step, so resuming needs no state.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from midstate.common import checks, limits
from midstate.common.times import steps_of


def _exponential(rate: float) -> Callable[[float], float]:
    return lambda x: (1 - math.exp(-rate * x)) / (1 - math.exp(-rate))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-14 * x + 6))


_CURVES: dict[str, Callable[[float], float]] = {
    "one_shot": lambda x: 1.0 if x > 0 else 0.0,
    "linear": lambda x: x,
    # Zhu & Gupta 2017, "To prune, or not to prune", eq. 1
    "cubic": lambda x: 1 - (1 - x) ** 3,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
    # MaxQ's "cos" (slow start)
    "quarter_cosine": lambda x: 1 - math.cos(math.pi * x / 2),
    # MaxQ's "exp": b = 0.05 an epoch over 30 epochs
    "exponential": _exponential(1.5),
    # Asymptotic soft filter pruning, arXiv 1808.07471: 3/4 of the way at 1/8 of the time
    "asfp": _exponential(11.08999),
    # Hubens et al., "One-cycle pruning", a=14, b=6, rescaled to start at 0 and end at 1
    "one_cycle": lambda x: (_sigmoid(x) - _sigmoid(0)) / (_sigmoid(1) - _sigmoid(0)),
}


def curve(name: str) -> Callable[[float], float]:
    """Return the curve f(x) of that name: non-decreasing on [0, 1], f(0) = 0 and f(1) = 1 exactly.

    Args:
        name: one_shot, linear, cubic, cosine, quarter_cosine, exponential, asfp or one_cycle.

    Raises:
        ValueError: unknown name; or, when the curve is called, x outside [0, 1].
    """
    shape = _CURVES[checks.one_of("curve", name, _CURVES)]

    def progress(x: float) -> float:
        x = checks.number("x", x, 0, 1)
        if x in (0.0, 1.0):
            return float(x)
        return min(max(shape(x), 0.0), 1.0)

    return progress


@dataclass(frozen=True)
class Window:
    """A curve placed between two steps of a run."""

    curve: str
    start: int
    stop: int

    def progress(self, step: int) -> float:
        """Progress at `step`: 1 from `stop` on (checked first: stop=0 is sparse from step 0), 0 before `start`."""
        if step >= self.stop:
            return 1.0
        if step < self.start:
            return 0.0
        return curve(self.curve)((step - self.start) / (self.stop - self.start))


@dataclass(frozen=True)
class Schedule:
    """A curve with its window; `start` and `stop` as `steps_of` reads them."""

    curve: str
    start: float | str
    stop: float | str

    def __post_init__(self) -> None:
        curve(self.curve)
        limits.schedule(vars(self))

    def window(self, steps_per_epoch: int, total_steps: int) -> Window:
        """Place the window in a run; one_shot goes the whole way at `start`, whatever `stop`.

        Raises:
            ValueError: stop before start, or stop after the run's end (progress would stay below 1).
        """
        start = steps_of("start", self.start, steps_per_epoch, total_steps)
        stop = steps_of("stop", self.stop, steps_per_epoch, total_steps)
        if self.curve == "one_shot":
            stop = start
        if stop < start:
            raise ValueError(
                f"stop={self.stop!r}: must not lie before start={self.start!r} (step {stop} before step {start})"
            )
        if stop > total_steps:
            raise ValueError(
                f"stop={self.stop!r}: step {stop} lies after the run's end (step {total_steps}); "
                "the target would never be reached"
            )
        return Window(self.curve, start, stop)
