"""Bits as the levels of an allocation: `Bits` stands where a pruner has its pattern."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from midstate.common import limits
from midstate.sparsity.layers import LayerView

BUDGETS = limits.BITS
FLOAT_BITS = 32
REFERENCE_BITS = (8, 8)  # for bitops and latency: `target` is a share of the cost at these
Choice = int | tuple[int, int]  # bits of weights, or of weights and of inputs


@dataclass(frozen=True)
class Bits:
    """Levels of a quantizer: the bits of a layer's weights, or a pair, bits of its weights and of its inputs.

    Args:
        weight: weight bits of the uniform allocation.
        activation: input bits of the uniform allocation; None: inputs are not quantised.
        choices_of: bits to choose from, ascending.
        pairs: whether the allocation also chooses the bits of inputs.
        limits: by budget, the largest cost of the layers whose bits are chosen; not listed: the uniform one's cost.
        input_bits: the fewest and the most bits that inputs can have.
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
        """Options of each choice for a layer, in order: bits of its weights, then, for pairs, bits of its inputs."""
        return (list(self.choices_of),) * (2 if self.pairs else 1)

    def kept(self, shape: torch.Size, level: int) -> int:
        """Size of a layer's weights at a level, in bits."""
        return shape.numel() * level

    def limit(self, layers: Sequence[LayerView], budget: str) -> int:
        """Largest total cost of the layers in a budget."""
        if budget in self.limits:
            return self.limits[budget]
        return sum(layer.cost(self, self.target(layer.shape), budget) for layer in layers)

    def both(self, level: Choice) -> tuple[int, int | None]:
        """Bits of weights and of inputs at a level."""
        return level if isinstance(level, tuple) else (level, self.activation)
