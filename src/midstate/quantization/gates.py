"""What learned bits cost, and how far that is above their budget."""

from collections.abc import Sequence

import torch
from torch import Tensor

from midstate.quantization.allocation import Gates
from midstate.quantization.attached import QuantisedLayer
from midstate.quantization.modules import Quantised


class GatedBudget:
    """The bits of all weights, and of all inputs where they have gates, each held to its budget by the loss.

    Args:
        gates: say how.
        layers: whose bits are learned.
        weights: bits that all their weights may have.
        activation_bits: mean bits that their inputs may have; None: inputs are not quantised.
    """

    def __init__(
        self, gates: Gates, layers: Sequence[QuantisedLayer], weights: int, activation_bits: int | None
    ) -> None:
        self.gates = gates
        self._parts = {"weights": [(each.weight, each.hidden.numel()) for each in layers]}
        self._limits = {"weights": float(weights)}
        if inputs := [(each.input, each.num_inputs) for each in layers if each.input and each.input.kind.learned]:
            self._parts["inputs"] = inputs
            self._limits["inputs"] = float(activation_bits * sum(num for _, num in inputs))

    @property
    def in_force(self) -> bool:
        """Tell whether any bits are in force yet."""
        return any(part.on for part, _ in self._parts["weights"])

    def weighed(self, loss: Tensor) -> Tensor:
        """The loss as it is minimised: times what bits cost over their budgets."""
        if not self.in_force:
            return loss
        for name, parts in self._parts.items():
            loss = loss * self.gates.factor(_bits(parts), self._limits[name])
        return loss

    def over(self) -> str | None:
        """What bits cost over their budgets, in words; None: they meet them, or none are in force."""
        if not self.in_force:
            return None
        shares = {name: float(_bits(parts).detach()) / self._limits[name] for name, parts in self._parts.items()}
        return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share > 1) or None


def _bits(parts: Sequence[tuple[Quantised, int]]) -> Tensor:
    """Bits of tensors, each with its number of elements: a number that gates learn from."""
    return torch.stack([part.estimator.bits_of(part.memory) * num for part, num in parts]).sum()
