"""Dead channels: counted, and cut out, so that a smaller network computes the same."""

from midstate.compaction.counting import count, weight_uses

__all__ = ["count", "weight_uses"]
