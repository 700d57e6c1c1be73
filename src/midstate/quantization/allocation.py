"""Allocations of bits that pruning does not have; all others are `midstate.sparsity`'s."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import checks
from midstate.common.times import steps_of
from midstate.quantization.bits import Bits, Choice
from midstate.sparsity.allocations.base import Allocation
from midstate.sparsity.allocations.fitting import check_lowest
from midstate.sparsity.allocations.scheme import content_digest, read_scheme
from midstate.sparsity.layers import LayerView


@dataclass(frozen=True)
class BitScheme(Allocation):
    """The bits of a file's section `bits`, as every run with a quantizer leaves them (scheme.json).

    Args:
        scheme: the file: by layer, bits of weights and of inputs, [4, 8]; or of weights alone, 4.
    """

    scheme: str
    pairs: ClassVar[bool] = True

    def allocate(self, pattern: Bits, layers: Sequence[LayerView]) -> list[Choice]:
        """Bits of each layer.

        Raises:
            ValueError: names other layers than bits are given to, or bits that a layer cannot have.
        """
        given, names = read_scheme(self.scheme, "bits")["bits"], [layer.name for layer in layers]
        if missing := sorted(set(names) - set(given)):
            raise ValueError(f"scheme={self.scheme!r}: gives no bits to {missing}")
        return [self._level(pattern, layer.name, given[layer.name]) for layer in layers]

    def digest(self) -> str:
        """Identify the content, whatever its layout."""
        return content_digest(read_scheme(self.scheme, "bits")["bits"])

    def _level(self, pattern: Bits, name: str, value: object) -> Choice:
        both = value if isinstance(value, list) else [value, pattern.activation]
        if len(both) != 2:
            raise ValueError(f"scheme bits of {name}: {value!r}: must be bits of weights, or those and of inputs")
        low, high = pattern.choices_of[0], pattern.choices_of[-1]
        weight = checks.integer(f"scheme bits of {name}", both[0], low, high)
        if pattern.activation is None or both[1] is None:
            return weight
        return weight, checks.integer(f"scheme bits of {name}'s inputs", both[1], *pattern.input_bits)


@dataclass(frozen=True)
class Gates(Allocation):
    """Training finds the bits: the loss is multiplied by (target / cost)^exponent while a budget is exceeded (DDQ).

    The cost is the bits of all weights, and, where inputs have gates, that of all inputs of an image: linear in the
    bits, as memory is. The exponent, the rate and the time until gates move are choices of ours.

    Args:
        exponent: alpha, below 0: how hard a budget that is exceeded presses.
        gate_lr: learning rate of the gates' numbers over the optimizer's.
        gates_from: until then all gates stay open: a share of the run, epochs or steps.
    """

    exponent: float = -1.0
    gate_lr: float = 1.0
    gates_from: float | str = 0.1

    def __post_init__(self) -> None:
        checks.number("exponent", self.exponent, -100, 0)
        checks.number("gate_lr", self.gate_lr, 0)
        steps_of("gates_from", self.gates_from, 1, 1)

    def allocate(self, pattern: Bits, layers: Sequence[LayerView]) -> list[Choice]:
        """All begin with the most bits."""
        return [pattern.full(layer.shape) for layer in layers]

    def check_layers(self, pattern: Bits, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if the fewest gates of every layer exceed the budget."""
        check_lowest(pattern, layers, [pattern.lowest] * len(layers), "size")

    def factor(self, cost: Tensor, target: float) -> Tensor:
        """What the loss is multiplied by: 1 within the budget."""
        return torch.ones_like(cost) if float(cost.detach()) <= target else (target / cost) ** self.exponent
