"""Dead channels: counted, and cut out, so that a smaller network computes the same."""

from midstate.compaction.counting import count, sizes_under_masks, weight_uses
from midstate.compaction.coupling import coupled_channels, coupled_for
from midstate.compaction.reordering import Reordering

__all__ = ["Reordering", "count", "coupled_channels", "coupled_for", "sizes_under_masks", "weight_uses"]
