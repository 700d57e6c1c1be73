"""Mean bits, costs and size of a finished network."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from midstate.quantization.attached import QuantisedLayer
from midstate.quantization.bits import FLOAT_BITS
from midstate.quantization.costs import Costs
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.tensors import layer_name


def report(layers: Sequence[QuantisedLayer], costs: Costs) -> dict[str, Any]:
    """Means and costs of a finished network's bits.

    Args:
        layers: finished layers.
        costs: costs of the network.

    Returns:
        `weight_bits`, a mean over weights; `activation_bits`, a mean over multiply-accumulates (None: inputs are not
        quantised); `size_share`, relative to 32 bits, `bitops_share` and, with a table, `latency_share`, relative to
        8 bits of weights and inputs, of the whole network; `verified`; `layers`, bits of weights and inputs by layer.
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


def stored_and_index(pattern: Pattern, shape: torch.Size, level: Level) -> tuple[int, int]:
    """Number of stored weights of a pruned layer, and the bits of the index of their positions.

    The index has ceil(log2 M) bits a stored weight under N:M, one bit a filter for filters, else one bit a weight.
    """
    stored = pattern.kept(shape, level)
    if stored == shape.numel():  # left dense
        return stored, 0
    if pattern.group == "neighbours":
        return stored, stored * math.ceil(math.log2(pattern.m))
    return stored, shape[0] if pattern.unit == "filter" else shape.numel()


def size_in_bytes(
    model: nn.Module, layers: Sequence[QuantisedLayer], stored: Mapping[str, tuple[int, int]]
) -> dict[str, int]:
    """Bytes that a finished network takes when it is packed.

    Args:
        model: finished model.
        layers: its quantised layers.
        stored: by name of each pruned layer, quantised or not, the result of `stored_and_index`; other layers store
            all weights.

    Returns:
        `values`: stored weights at their bits, with a codebook or steps a layer at 32 bits, and all other parameters at
        32 bits; `indices`; `total`; and `dense`, of the same network at 32 bits.
    """
    values = indices = counted = 0
    for each in layers:
        num = each.hidden.numel()
        kept, index = stored.get(each.layer.name, (num, 0))
        values += kept * (each.final_bits[0] or FLOAT_BITS) + (0 if each.values is None else _described(each))
        indices += index
        counted += num
    sizes = {layer_name(name): parameter.numel() for name, parameter in model.named_parameters()}
    for name in stored.keys() - {each.layer.name for each in layers}:  # pruned, and left out of quantisation
        kept, index = stored[name]
        values += kept * FLOAT_BITS
        indices += index
        counted += sizes[name]
    total = sum(sizes.values())
    values += (total - counted) * FLOAT_BITS
    bits = {"values": values, "indices": indices, "total": values + indices, "dense": total * FLOAT_BITS}
    return {name: math.ceil(number / 8) for name, number in bits.items()}


def _described(each: QuantisedLayer) -> int:
    """Bits that describe a layer's values: one step a row, or all values if they are no multiples of a step."""
    regular = "step" in each.weight.memory
    return FLOAT_BITS * (len(each.values) if regular else each.values.numel())


def _mean(values: dict[str, int], sizes: dict[str, int]) -> float:
    return sum(bits * sizes[name] for name, bits in values.items()) / sum(sizes[name] for name in values)
