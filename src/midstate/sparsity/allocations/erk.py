"""Erdős-Rényi-Kernel: density by a layer's shape."""

from collections.abc import Sequence
from dataclasses import dataclass

from midstate.common import limits
from midstate.sparsity.allocations.base import Allocation
from midstate.sparsity.allocations.fitting import fit
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class ERK(Allocation):
    """Density in proportion to (C_out + C_in + k_h + k_w) / (C_out * C_in * k_h * k_w) (Evci et al., arXiv 1911.11134).

    Layers that would exceed 1 are dense. Under `filter` the share of filters takes the place of density.
    """

    budget: str = "params"

    def __post_init__(self) -> None:
        limits.counted(vars(self))

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer."""
        return fit(erk_densities(layers), [0.0] * len(layers), pattern, layers, self.budget)


def erk_densities(layers: Sequence[LayerView]) -> list[float]:
    """Relative densities of ERK: the sum of a weight's dimensions over their product."""
    return [sum(layer.shape) / layer.shape.numel() for layer in layers]
