"""Bits as what an allocation gives out, in the place that a pattern of weights has under a pruner."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from midstate.common import limits
from midstate.sparsity.layers import LayerView

BUDGETS = limits.BITS
FLOAT_BITS = 32
REFERENCE_BITS = (8, 8)  # of bitops and latency
Choice = int | tuple[int, int]  # of weights; or of weights and inputs


@dataclass(frozen=True)
class Bits:
    """A level is the bits of a layer's weights, or a pair: of its weights and of its inputs.

    Args:
        weight: of the uniform allocation.
        activation: of the uniform allocation; None: inputs are not quantised.
        choices_of: bits to choose from, ascending.
        pairs: whether the allocation chooses both.
        limits: by budget, what the layers that are chosen for may cost; none: as much as the uniform allocation.
        input_bits: the fewest and the most that inputs can have.
    """

    weight: int
    activation: int | None
    choices_of: tuple[int, ...] = tuple(range(2, 9))
    pairs: bool = False
    limits: Mapping[str, int] = field(default_factory=dict)
    input_bits: tuple[int, int] = (2, 8)
    name: ClassVar[str] = "bits"
    unit: ClassVar[str] = "bit"
    group: ClassVar[str] = "layer"
    budgets: ClassVar[tuple[str, ...]] = BUDGETS

    @property
    def lowest(self) -> int:
        """The fewest bits."""
        return self.choices_of[0]

    def full(self, shape: torch.Size) -> Choice:
        """The most bits."""
        most = self.choices_of[-1]
        return (most, most) if self.pairs else most

    def target(self, shape: torch.Size) -> Choice:
        """Level of the uniform allocation."""
        return (self.weight, self.activation) if self.pairs else self.weight

    def choices(self, shape: torch.Size) -> list[Choice]:
        """All levels of a layer."""
        if not self.pairs:
            return list(self.choices_of)
        return [(weight, activation) for weight in self.choices_of for activation in self.choices_of]

    def actions(self, shape: torch.Size) -> tuple[list[int], ...]:
        """What is chosen for a layer, one after another: bits of its weights, then of its inputs."""
        return (list(self.choices_of),) * (2 if self.pairs else 1)

    def kept(self, shape: torch.Size, level: int) -> int:
        """Bits of a layer's weights."""
        return shape.numel() * level

    def limit(self, layers: Sequence[LayerView], budget: str) -> int:
        """What the layers may cost."""
        if budget in self.limits:
            return self.limits[budget]
        return sum(layer.cost(self, self.target(layer.shape), budget) for layer in layers)

    def both(self, level: Choice) -> tuple[int, int | None]:
        """Bits of weights and of inputs at a level."""
        return level if isinstance(level, tuple) else (level, self.activation)
