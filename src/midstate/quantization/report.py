"""What the bits of a finished network come to."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from midstate.quantization.attached import QuantisedLayer
from midstate.quantization.bits import FLOAT_BITS
from midstate.quantization.costs import Costs


def report(layers: Sequence[QuantisedLayer], costs: Costs) -> dict[str, Any]:
    """Means and costs of a finished network's bits.

    Args:
        layers: finished.
        costs: of the network.

    Returns:
        `weight_bits` and `activation_bits`, means over the weights, and over the weights' multiply-accumulates (None:
        inputs are not quantised); `size_share` of 32 bits, `bitops_share` and, of a table, `latency_share` of 8 bits
        of weights and inputs, over all layers with weights; `verified`; and by layer the bits of both.
    """
    bits = {each.layer.name: each.final_bits for each in layers}
    macs = {name: costs.macs[name] for name, pair in bits.items() if pair[1] is not None}
    budgets = ("size", "bitops", *(("latency",) if costs.latency else ()))
    return {
        "verified": all(each.obeys() for each in layers),
        "weight_bits": _mean({n: (w or FLOAT_BITS) for n, (w, _) in bits.items()}, costs.num_weights),
        "activation_bits": _mean({name: bits[name][1] for name in macs}, macs) if macs else None,
        **{f"{budget}_share": costs.total(bits, budget) / costs.reference(budget) for budget in budgets},
        "layers": {name: list(pair) for name, pair in bits.items()},
    }


def size_in_bytes(
    model: torch.nn.Module, layers: Sequence[QuantisedLayer], index_bits: dict[str, int]
) -> dict[str, int]:
    """Bytes that a finished network takes when it is packed.

    Args:
        model: finished.
        layers: of it, quantised.
        index_bits: by layer that was pruned, bits that say where one kept weight lies; -1: a bit for each weight,
            kept or not. A layer that was not pruned needs none.

    Returns:
        `values`: kept weights at their bits, with a codebook or step a layer at 32 bits, and all other parameters at
        32 bits; `indices`; `total`; and `dense`, of the same network at 32 bits.
    """
    values = indices = quantised = 0
    for each in layers:
        weight = each.layer.weight.detach()
        pruned = each.layer.name in index_bits
        kept = int(weight.count_nonzero()) if pruned else weight.numel()
        values += kept * (each.final_bits[0] or FLOAT_BITS) + (0 if each.values is None else _described(each))
        if pruned:
            each_index = index_bits[each.layer.name]
            indices += weight.numel() if each_index < 0 else kept * each_index
        quantised += weight.numel()
    total = sum(p.numel() for p in model.parameters())
    values += (total - quantised) * FLOAT_BITS
    bits = {"values": values, "indices": indices, "total": values + indices, "dense": total * FLOAT_BITS}
    return {name: math.ceil(number / 8) for name, number in bits.items()}


def _described(each: QuantisedLayer) -> int:
    """Bits that say which values a layer has: a step for each row, or all values where they are no multiples of one."""
    regular = "step" in each.weight.memory
    return FLOAT_BITS * (len(each.values) if regular else each.values.numel())


def _mean(values: dict[str, int], sizes: dict[str, int]) -> float:
    return sum(bits * sizes[name] for name, bits in values.items()) / sum(sizes[name] for name in values)
