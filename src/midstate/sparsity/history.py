"""History of masks: units that changed between ends of epochs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from midstate.sparsity.patterns.pattern import Pattern


class MaskHistory:
    """Compares masks with those of the last epoch's end, and counts how often each unit has changed."""

    def __init__(self, pattern: Pattern, masks: Sequence[Tensor]) -> None:
        self.pattern = pattern
        self._last = [mask.clone() for mask in masks]
        self._counts = [torch.zeros_like(units, dtype=torch.uint8) for units in map(pattern.units, masks)]

    def end_epoch(self, masks: Sequence[Tensor]) -> dict[str, float]:
        """Share of weights `kept`, shares of units that changed (`churn`) and that came back (`revived`)."""
        total = sum(mask.numel() for mask in masks)
        units = self.pattern.units
        pairs = [(units(mask), units(last)) for mask, last in zip(masks, self._last, strict=True)]
        num_units = sum(mask.numel() for mask, _ in pairs)
        for count, (mask, last) in zip(self._counts, pairs, strict=True):
            count.add_(mask != last).clamp_(max=100)  # `flipflop` asks for 2; a byte must not overflow
        row = {
            "kept": sum(int(mask.sum()) for mask in masks) / total,
            "churn": sum(int((mask != last).sum()) for mask, last in pairs) / num_units,
            "revived": sum(int((mask & ~last).sum()) for mask, last in pairs) / num_units,
        }
        self._last = [mask.clone() for mask in masks]
        return row

    def flipflop(self) -> float:
        """Share of units that changed at least twice between epoch ends."""
        return sum(int((count >= 2).sum()) for count in self._counts) / sum(count.numel() for count in self._counts)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"epoch_masks": self._last, "changes": self._counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back `state_dict`."""
        self._last = [saved.to(own.device) for saved, own in zip(state["epoch_masks"], self._last, strict=True)]
        self._counts = [saved.to(own.device) for saved, own in zip(state["changes"], self._counts, strict=True)]


class _NoChanges:
    """The changes of a run without masks."""

    def end_epoch(self, masks: Sequence[Tensor]) -> dict[str, float]:
        """All weights are kept."""
        return {"kept": 1.0, "churn": 0.0, "revived": 0.0}

    def flipflop(self) -> float:
        """No unit changes."""
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Nothing to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""


NO_CHANGES = _NoChanges()
