"""Cost of bits, as size, bitops or latency, of a layer and of a network."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from midstate.common.numbers import floor
from midstate.quantization.bits import FLOAT_BITS, REFERENCE_BITS
from midstate.quantization.latency import Latency
from midstate.sparsity.tensors import Layer


@dataclass(frozen=True)
class Costs:
    """Costs of a network's layers, as whole numbers.

    `size`: bits of weights. `bitops`: multiply-accumulates of an image times bits of weights times bits of inputs.
    `latency`: microseconds from a table.

    Args:
        num_weights: by layer name.
        macs: of one image, by layer name.
        latency: the table; None: latency is not asked for.
    """

    num_weights: Mapping[str, int]
    macs: Mapping[str, int]
    latency: Latency | None = None

    @classmethod
    def of(cls, every: Sequence[Layer], uses: Mapping[str, int], latency: Latency | None) -> "Costs":
        """Make the costs of layers; `uses`: how often an image uses each weight, by layer name (default 1)."""
        num_weights = {layer.name: layer.weight.numel() for layer in every}
        return cls(num_weights, {name: n * uses.get(name, 1) for name, n in num_weights.items()}, latency)

    def cost(self, name: str, weight: int | None, activation: int | None, budget: str) -> int:
        """Cost of one layer at given bits of weights and inputs; None counts as 32."""
        weight, activation = weight or FLOAT_BITS, activation or FLOAT_BITS
        if budget == "size":
            return self.num_weights[name] * weight
        if budget == "bitops":
            return self.macs[name] * weight * activation
        return self.latency.of(name, weight, activation)

    def total(
        self, bits: Mapping[str, tuple[int | None, int | None]], budget: str, names: Collection[str] | None = None
    ) -> int:
        """Total cost of layers; layers without bits count at 32.

        Args:
            bits: bits of weights and inputs, by layer name.
            budget: `size`, `bitops` or `latency`.
            names: layers that count; None: all layers.
        """
        counted = self.num_weights if names is None else names
        if budget == "latency":  # layers that the table lacks do not count
            counted = [name for name in counted if name in self.latency.layers]
        return sum(self.cost(name, *bits.get(name, (None, None)), budget) for name in counted)

    def reference(self, budget: str) -> int:
        """Cost that a target is a share of: the size at 32 bits; bitops or latency at 8 bits of weights and inputs."""
        pair = (FLOAT_BITS, None) if budget == "size" else REFERENCE_BITS
        return self.total(dict.fromkeys(self.num_weights, pair), budget)

    def left_for(self, free: Collection[str], fixed: Mapping[str, tuple], budget: str, target: float) -> int:
        """Budget of the layers `free`: the share `target` of the reference, minus the cost of all other layers."""
        others = [name for name in self.num_weights if name not in free]
        return floor(target * self.reference(budget)) - self.total(fixed, budget, others)
