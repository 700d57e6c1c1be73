"""Uniform, with the first and the last layer spared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from midstate.common import limits
from midstate.sparsity.allocations.base import Allocation
from midstate.sparsity.allocations.fitting import fit
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class UniformPlus(Allocation):
    """Uniform but for the ends: the first layer dense, a fifth of the classifier at least (Gale et al., 1902.09574)."""

    budget: str = "params"
    classifier_share: ClassVar[float] = 0.2

    def __post_init__(self) -> None:
        limits.counted(vars(self))

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer.

        Raises:
            ValueError: neither end is in scope, or the ends alone exceed the budget.
        """
        if not any(layer.is_first or layer.is_classifier for layer in layers):
            raise ValueError(
                "allocation=uniform_plus spares the first layer and the classifier, and neither is in scope; "
                "use pruner/scope=all, or pruner/allocation=uniform"
            )
        lowest = [1.0 if layer.is_first else self.classifier_share if layer.is_classifier else 0.0 for layer in layers]
        return fit([1.0] * len(layers), lowest, pattern, layers, self.budget)
