"""Dead channels: counted, and cut out, so that a smaller network computes the same."""

from midstate.compaction.counting import count, sizes_under_masks, weight_uses

__all__ = ["count", "sizes_under_masks", "weight_uses"]
