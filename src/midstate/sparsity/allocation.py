"""Allocations: how much goes from each layer, as attainable levels of the pattern."""

from dataclasses import dataclass

from torch import Tensor

from midstate.sparsity.patterns import NM


@dataclass(frozen=True)
class Uniform:
    """The same level in every layer (均匀剪枝)."""

    def levels(self, weights: list[Tensor], pattern: NM) -> list[int]:
        """One target level per weight, in the same order."""
        return [pattern.target_level() for _ in weights]
