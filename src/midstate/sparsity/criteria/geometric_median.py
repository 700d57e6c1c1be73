"""Distance to the other filters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.common import checks
from midstate.common.numbers import floor
from midstate.sparsity.criteria.base import Criterion, widened
from midstate.sparsity.kernels.selection import keep_largest
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class GeometricMedian(Criterion):
    """Distance to all other filters: the most replaceable go first (FPGM, arXiv 1811.00250, eq. 4).

    Args:
        norm_share: share of the pruned filters, rounded down, that is chosen by smallest L2 norm; the rest have
            the smallest sum of distances to the filters that these leave. 0: distance alone; 0.75: FPGM's mix.
    """

    norm_share: float = 0.0

    def __post_init__(self) -> None:
        checks.number("norm_share", self.norm_share, 0, 1)

    def score(self, layer: LayerView, pattern: Pattern) -> Tensor:
        """Scores (O,): sums of distances; filters chosen by their norm score 0."""
        filters = widened(layer.weight).flatten(1)
        stay = torch.ones(len(filters), dtype=torch.bool, device=filters.device)
        if self.norm_share:
            num_by_norm = floor(self.norm_share * (len(filters) - layer.level))
            stay = keep_largest(filters.norm(dim=1), len(filters) - num_by_norm, 0)
        # Not by matrix product: that is faster, but loses the digits that tell near filters apart.
        distance = torch.cdist(filters, filters[stay], compute_mode="donot_use_mm_for_euclid_dist").sum(1)
        return torch.where(stay, distance, 0)
