"""Trials for an allocation that tries whole schemes, and the state that it keeps between episodes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from midstate.sparsity.kernels.selection import Unrankable
from midstate.sparsity.patterns.nm import Level


@dataclass
class Search:
    """Trials of schemes, owned by a pruner or a quantizer; its state and rows are part of the checkpoint.

    Args:
        trial: top-1 in percent on held-out images with every layer at its level, after a short finetune; afterwards
            weights, statistics, masks and generators are as before, to the bit. NaN: the finetune diverged.
        dense_top1: top-1 of the network as it is, in percent, on the same images.
        state: the allocation's own state, of plain values and tensors.
        rows: one an episode, columns as in `COLUMNS`.
        between: called before each episode; an exception from it stops the search and loses no finished episode.
    """

    trial: Callable[[Sequence[Level]], float]
    dense_top1: Callable[[], float]
    state: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    between: list[Callable[[], None]] = field(default_factory=list)

    def top1(self, levels: Sequence[Level]) -> float:
        """Top-1 of a scheme, in percent; taken from `rows` if an earlier episode has tried it.

        Raises:
            Unrankable: the finetune diverged.
        """
        for call in self.between:
            call()
        plain = plain_levels(levels)
        known = next((row["top1"] for row in reversed(self.rows) if row["levels"] == plain), None)
        found = self.trial(levels) if known is None else known
        if not math.isfinite(found):
            raise Unrankable(f"NaN for a reward in episode {len(self.rows) + 1}: the finetune of {plain} has diverged")
        return found

    def state_dict(self) -> dict[str, Any]:
        """State and rows, for a checkpoint."""
        return {"state": self.state, "rows": list(self.rows)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back `state_dict`."""
        self.state, self.rows = saved["state"], saved["rows"]


COLUMNS = ("episode", "reward", "top1", "cost", "limit", "best", "levels")  # of `Search.rows`


def plain_levels(levels: Sequence[Level]) -> list[Any]:
    """Levels as `rows` hold them: numbers, or lists of numbers."""
    return [list(level) if isinstance(level, tuple) else level for level in levels]
