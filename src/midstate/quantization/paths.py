"""Paths of a quantizer: the bits in force on the way from 32 to the target (中间态)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from midstate.common import checks
from midstate.common.numbers import floor
from midstate.sparsity.schedules import Window


@dataclass(frozen=True)
class Jump:
    """No intermediate state: bits jump to the target when the schedule's window opens."""

    name: ClassVar[str] = "direct"

    def window(self, window: Window) -> Window:
        """The window of the jump: it ends where it starts."""
        return replace(window, curve="one_shot", stop=window.start)

    def num_jumps(self, least: int) -> int:
        """Jumps on the way to the target."""
        return 1

    def bits_at(self, target: int, least: int, p: float) -> int | None:
        """Bits in force at progress p; None: not quantised yet."""
        return target if p > 0 else None

    def describe(self, p: float) -> str:
        """The state in a word."""
        return "quantised" if p > 0 else "32 bits"


@dataclass(frozen=True)
class StepBits:
    """Bits step down one by one: 32, then `max_bits`, max_bits - 1, ... to each tensor's target, which then stays.

    Args:
        max_bits: bits of the first step below 32.
    """

    max_bits: int = 8
    name: ClassVar[str] = "bits"

    def __post_init__(self) -> None:
        checks.integer("max_bits", self.max_bits, 2, 8)

    def window(self, window: Window) -> Window:
        """The schedule's window, unchanged."""
        return window

    def num_jumps(self, least: int) -> int:
        """Jumps on the way to the fewest bits of all tensors."""
        return max(1, self.max_bits - least + 1)

    def bits_at(self, target: int, least: int, p: float) -> int | None:
        """Bits in force at progress p; None: not quantised yet. Each tensor stops at its target.

        Args:
            target: of the tensor.
            least: the fewest target bits of all tensors, to which progress 1 leads.
            p: progress.
        """
        step = floor(self.num_jumps(least) * p)
        if step == 0:
            return None
        return target if p == 1 else max(target, self.max_bits - step + 1)

    def describe(self, p: float) -> str:
        """The state in a word."""
        return f"{100 * p:.0f} % of the steps of bits"
