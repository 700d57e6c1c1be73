"""Cost of learned bits, and how far it exceeds their budget."""

from collections.abc import Sequence

import torch
from torch import Tensor

from midstate.quantization.allocation import Gates
from midstate.quantization.attached import QuantisedLayer
from midstate.quantization.modules import Quantised


class GatedBudget:
    """Budgets of learned bits: one for all weights, one for all inputs of an image if these have gates.

    Args:
        gates: gives the factor of the loss.
        layers: layers whose bits are learned.
        weights: budget of all their weights, total bits.
        activation_bits: budget of their inputs, mean bits; None: inputs are not quantised.
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
        """The loss to minimise: multiplied by the factor of each budget once bits are in force."""
        if not self.in_force:
            return loss
        for name, parts in self._parts.items():
            loss = loss * self.gates.factor(_bits(parts), self._limits[name])
        return loss

    def over(self) -> str | None:
        """The exceeded budgets, with the cost in percent of each; None: none is exceeded, or no bits are in force."""
        if not self.in_force:
            return None
        shares = {name: float(_bits(parts).detach()) / self._limits[name] for name, parts in self._parts.items()}
        return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share > 1) or None


def _bits(parts: Sequence[tuple[Quantised, int]]) -> Tensor:
    """Total bits of tensors, given with their numbers of elements; differentiable with respect to the gates."""
    return torch.stack([part.estimator.bits_of(part.memory) * num for part, num in parts]).sum()
