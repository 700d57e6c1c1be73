"""When masks are refreshed."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midstate.common import limits
from midstate.common.times import steps_of
from midstate.sparsity.schedules import Window


@dataclass(frozen=True)
class Timed:
    """Base of updates: masks are refreshed every `every`, up to `until` (null: to the end).

    Protocol: `resolve` is called once, when the pruner is attached, and says at which steps masks are refreshed; the
    window's start and stop are always among them. At a refresh `adjust` changes the scores before masks are made,
    because a unit in use may be harder to replace; `exchanged` says what share of the units changes place; `refreshed`
    acts on the weights under the new mask. Members add `adjust`.

    Args:
        every: steps ('100it') or epochs ('1ep').
        until: a share of the run, epochs or steps; masks are frozen afterwards.
    """

    every: str = "1it"
    until: float | str | None = None
    live: ClassVar[bool] = True  # whether each evaluation refreshes the masks as well
    needs: ClassVar[tuple[str, ...]] = ()  # measurements that it reads, from `NEEDS`
    regrow: ClassVar[str] = "free"  # whether pruned units may come back, see `Update`
    hysteresis: ClassVar[float] = 0.0
    forced_swaps: ClassVar[float] = 0.0  # share of the units in use that each refresh exchanges by `swap`

    def __post_init__(self) -> None:
        limits.timed(vars(self))

    def refreshed(self, weight: Tensor, mask: Tensor) -> None:
        """Act on a layer's weights when its mask is refreshed."""

    def exchanged(self, elapsed: float) -> float:
        """Share of each layer's units in use that a refresh exchanges; `elapsed` as `RefreshSteps.elapsed` gives it."""
        return 0.0

    def resolve(self, window: Window, steps_per_epoch: int, total_steps: int) -> "RefreshSteps":
        """Place the update in a run.

        Raises:
            ValueError: masks would freeze before the window's stop, short of the target.
        """
        every = max(1, steps_of("every", self.every, steps_per_epoch, total_steps))
        until = total_steps
        if self.until is not None:
            until = steps_of("until", self.until, steps_per_epoch, total_steps)
            if until < window.stop:
                raise ValueError(
                    f"until={self.until!r}: masks would freeze at step {until}, before the "
                    f"schedule's stop (step {window.stop}), short of the target"
                )
        return RefreshSteps(every, until, window.start, window.stop, self.live)


@dataclass(frozen=True)
class RefreshSteps:
    """The steps at which masks are refreshed."""

    every: int
    until: int
    start: int  # of the schedule's window; a refresh is forced at start and at stop
    stop: int
    live: bool = True  # whether each evaluation refreshes the masks as well

    def due(self, step: int) -> bool:
        """Tell whether masks are refreshed before the forward pass of `step`."""
        return step <= self.until and (step % self.every == 0 or self._forced(step))

    def refreshes_at_eval(self, step: int) -> bool:
        """Tell whether masks are refreshed for an evaluation at `step`."""
        return step <= self.until and (self.live or self._forced(step))

    def any_between(self) -> bool:
        """Tell whether a multiple of `every` lies after the window's start and before `until`."""
        return (self.start // self.every + 1) * self.every < self.until

    def elapsed(self, step: int) -> float:
        """Share of the time from the window's start to `until` that has passed, 0..1."""
        return min(1.0, max(0.0, (step - self.start) / max(1, self.until - self.start)))

    def _forced(self, step: int) -> bool:
        return step in (self.start, self.stop)


NEVER = RefreshSteps(every=1, until=-1, start=0, stop=0, live=False)  # masks are not refreshed at all
