"""What bits cost: size, bitops or latency, of a layer and of a network."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from midstate.common.numbers import floor
from midstate.quantization.bits import FLOAT_BITS, REFERENCE_BITS
from midstate.quantization.latency import Latency
from midstate.sparsity.tensors import Layer


@dataclass(frozen=True)
class Costs:
    """Costs of a network's layers, whole numbers.

    `size`: bits of weights. `bitops`: multiply-accumulates of an image times bits of weights times bits of inputs.
    `latency`: microseconds of a table.

    Args:
        num_weights: by layer.
        macs: of an image, by layer.
        latency: the table; None: latency is not asked for.
    """

    num_weights: Mapping[str, int]
    macs: Mapping[str, int]
    latency: Latency | None = None

    @classmethod
    def of(cls, every: Sequence[Layer], uses: Mapping[str, int], latency: Latency | None) -> "Costs":
        """Costs of layers of which each weight is used so often by an image."""
        num_weights = {layer.name: layer.weight.numel() for layer in every}
        return cls(num_weights, {name: n * uses.get(name, 1) for name, n in num_weights.items()}, latency)

    def cost(self, name: str, weight: int | None, activation: int | None, budget: str) -> int:
        """Cost of one layer at bits of its weights and inputs; None: 32."""
        weight, activation = weight or FLOAT_BITS, activation or FLOAT_BITS
        if budget == "size":
            return self.num_weights[name] * weight
        if budget == "bitops":
            return self.macs[name] * weight * activation
        return self.latency.of(name, weight, activation)

    def total(
        self, bits: Mapping[str, tuple[int | None, int | None]], budget: str, names: Collection[str] | None = None
    ) -> int:
        """Cost of layers, those that have no bits at 32.

        Args:
            bits: by layer, of weights and inputs.
            budget: which cost.
            names: of the layers that count; None: of the whole network.
        """
        counted = self.num_weights if names is None else names
        if budget == "latency":  # what the table leaves out is not timed
            counted = [name for name in counted if name in self.latency.layers]
        return sum(self.cost(name, *bits.get(name, (None, None)), budget) for name in counted)

    def reference(self, budget: str) -> int:
        """What targets are shares of: the size at 32 bits, and bitops or latency at 8 bits of weights and inputs."""
        pair = (FLOAT_BITS, None) if budget == "size" else REFERENCE_BITS
        return self.total(dict.fromkeys(self.num_weights, pair), budget)

    def left_for(self, free: Collection[str], fixed: Mapping[str, tuple], budget: str, target: float) -> int:
        """What a share of the reference leaves for the layers that bits are given to."""
        others = [name for name in self.num_weights if name not in free]
        return floor(target * self.reference(budget)) - self.total(fixed, budget, others)
