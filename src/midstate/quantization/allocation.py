"""Allocations for bits only; all others are in `midstate.sparsity.allocations`."""

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
    """Bits read from a file: the section `bits` of the scheme.json that every run with a quantizer writes.

    Args:
        scheme: path of the file; by layer name, [weight bits, input bits], such as [4, 8]. Weight bits alone, 4 or
            [4, null], leave inputs at the method's `activation_bits`.
    """

    scheme: str
    pairs: ClassVar[bool] = True

    def allocate(self, pattern: Bits, layers: Sequence[LayerView]) -> list[Choice]:
        """Bits of each layer.

        Raises:
            ValueError: the file cannot be read, names other layers than these, or has bits that a layer cannot have.
        """
        given, names = read_scheme(self.scheme, "bits")["bits"], [layer.name for layer in layers]
        if missing := sorted(set(names) - set(given)):
            raise ValueError(f"scheme={self.scheme!r}: gives no bits to {missing}")
        if extra := sorted(set(given) - set(names)):
            raise ValueError(
                f"scheme={self.scheme!r}: gives bits to {extra}, which have fixed bits, are left out, or are no layers"
            )
        return [self._level(pattern, layer.name, given[layer.name]) for layer in layers]

    def digest(self) -> str:
        """Return a digest of the file's bits that does not depend on its layout."""
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

    Weights have one cost, the sum of their bits; where inputs have gates, the bits of all inputs of one image are a
    second cost with its own budget. The values of all three arguments are choices of ours.

    Args:
        exponent: alpha, -100 to 0: the more negative, the larger the penalty for an exceeded budget.
        gate_lr: learning rate of the gate numbers, as a multiple of the optimizer's.
        gates_from: when gates begin to learn: a share of the run, epochs or steps; until then all are open.
    """

    exponent: float = -1.0
    gate_lr: float = 1.0
    gates_from: float | str = 0.1

    def __post_init__(self) -> None:
        checks.number("exponent", self.exponent, -100, 0)
        checks.number("gate_lr", self.gate_lr, 0)
        steps_of("gates_from", self.gates_from, 1, 1)

    def allocate(self, pattern: Bits, layers: Sequence[LayerView]) -> list[Choice]:
        """Give every layer the most bits to begin with."""
        return [pattern.full(layer.shape) for layer in layers]

    def check_layers(self, pattern: Bits, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if even the fewest bits in every layer exceed the budget."""
        check_lowest(pattern, layers, [pattern.lowest] * len(layers), "size")

    def factor(self, cost: Tensor, target: float) -> Tensor:
        """Factor of the loss: 1 within the budget, else (target / cost)^exponent."""
        return torch.ones_like(cost) if float(cost.detach()) <= target else (target / cost) ** self.exponent
