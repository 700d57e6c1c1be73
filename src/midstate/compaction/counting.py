"""Parameters and multiply-accumulates (MACs), of the dense and of the pruned network.

The exact count leaves out every weight that is zero or reads a channel that no longer depends on the image.
The nominal count, as in papers, is densities times dense figures.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from midstate.compaction.dyeing import alive_inputs, fed_by, lost_inputs, reached
from midstate.compaction.uses import weight_uses
from midstate.sparsity import Layer, weight_layers
from midstate.sparsity.criteria.base import of_inputs
from midstate.sparsity.tensors import other_tensors

__all__ = ["alive_inputs", "count", "count_extracted", "fed_by", "sizes_under_masks", "weight_uses"]


def count(
    model: nn.Module,
    layers: list[Layer],
    densities: list[float],
    prunes_filters: bool,
    uses: dict[str, int],
    shape: tuple,
) -> dict[str, int | float]:
    """Count the finished model.

    Args:
        model: a plain model, masks folded in.
        layers: its prunable layers.
        densities: target density of each of `layers`, for the nominal count.
        prunes_filters: whether whole filters were pruned; papers then count fewer inputs of the next layer.
        uses: from `weight_uses`.
        shape: of one image (C, H, W).

    Returns:
        `params_total`, `params_prunable` (weights in `layers`), `params_nonzero` (of all parameters),
        `params_sparse` (of those, without weights that read dead channels and the biases and BatchNorm
        parameters of dead channels), `sparsity` (zeros among the prunable), `sparsity_total` (the same
        zeros among all parameters); and MACs per image of convolutions, linear layers, attention projections
        and whatever else is multiplied with features, 1 MAC = one multiply and one add: `macs_dense`,
        `macs_sparse` (of the weights counted in `params_sparse`), `macs_nominal` (each layer's dense MACs
        times its density; with `prunes_filters`, times the density of the source, too, where a layer reads
        one pruned layer alone).
    """
    every = _counted_layers(model, uses)
    prunable = sum(layer.weight.numel() for layer in layers)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    total = sum(p.numel() for p in model.parameters())
    exact = count_extracted(model, uses, alive_inputs(model, shape))
    dense = {layer.name: layer.weight.numel() * uses.get(layer.name, 0) for layer in every}
    return {
        "params_total": total,
        "params_prunable": prunable,
        "params_nonzero": _nonzero(model),
        "params_sparse": exact["params"],
        "sparsity": zeros / prunable,
        "sparsity_total": zeros / total,
        "macs_dense": sum(dense.values()),
        "macs_sparse": exact["macs"],
        "macs_nominal": _nominal(dense, layers, densities, fed_by(model, layers, shape) if prunes_filters else {}),
    }


def count_extracted(model: nn.Module, uses: dict[str, int], alive: dict[str, Tensor]) -> dict[str, int]:
    """Count the non-zero weights that are left without dead channels: `params`, and `macs` per image.

    Args:
        model: a plain model, masks folded in.
        uses: from `weight_uses`.
        alive: from `alive_inputs`.
    """
    every = _counted_layers(model, uses)
    living = {layer.name: _living_weights(layer, alive) for layer in every}
    dead = sum(int(layer.weight.count_nonzero()) for layer in every) - sum(living.values())
    return {
        "params": _nonzero(model) - dead - _dead_vectors(model, alive),
        "macs": sum(living[name] * uses.get(name, 0) for name in living),
    }


def sizes_under_masks(
    model: nn.Module, uses: dict[str, int], shape: tuple[int, ...]
) -> Callable[[Mapping[str, Tensor]], dict[str, int]]:
    """Prepare to count a model under masks, as `count` will after training, with the masks folded in.

    Args:
        model: a plain model; a copy is kept. Its zeros count as non-zero, since training changes them.
        uses: from `weight_uses`.
        shape: of one image (C, H, W).

    Returns:
        A function from masks, by name of their layer, to the result of `count_extracted`; layers without a mask are
        whole.
    """
    copied = deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.masked_fill_(parameter == 0, 1)
    layers = {layer.name: layer for layer in [*weight_layers(copied), *other_tensors(copied)]}
    lost = lost_inputs(copied, shape)

    @torch.no_grad()
    def sizes(masks: Mapping[str, Tensor]) -> dict[str, int]:
        for name, mask in masks.items():
            layers[name].weight.copy_(mask)
        found = count_extracted(copied, uses, alive_inputs(copied, shape, lost))
        for name in masks:
            layers[name].weight.fill_(1)
        return found

    return sizes


def _counted_layers(model: nn.Module, uses: dict[str, int]) -> list[Layer]:
    return [*weight_layers(model), *(layer for layer in other_tensors(model) if layer.name in uses)]


def _nonzero(model: nn.Module) -> int:
    return sum(int(p.count_nonzero()) for p in model.parameters())


def _living_weights(layer: Layer, alive: dict[str, Tensor]) -> int:
    """Number of non-zero weights that read living channels."""
    weight = layer.weight
    if layer.name not in alive:
        return int(weight.count_nonzero())
    return int((weight * of_inputs(weight, alive[layer.name])).count_nonzero())


def _dead_vectors(model: nn.Module, alive: dict[str, Tensor]) -> int:
    """Number of non-zero biases and BatchNorm parameters of dead channels."""
    num = 0
    for layer in weight_layers(model):
        bias = getattr(layer.module, "bias", None)
        if layer.name in alive and bias is not None:
            num += int(bias[~reached(layer, alive[layer.name][None])[0]].count_nonzero())
    for name, norm in model.named_modules():
        if isinstance(norm, _BatchNorm) and name in alive and norm.affine:
            num += sum(int(vector[~alive[name]].count_nonzero()) for vector in (norm.weight, norm.bias))
    return num


def _nominal(dense: dict[str, int], layers: list[Layer], densities: list[float], sources: dict[str, str]) -> int:
    """MACs by densities alone; `sources` as from `fed_by`."""
    density = dict(zip([layer.name for layer in layers], densities, strict=True))
    return round(
        sum(macs * density.get(name, 1.0) * density.get(sources.get(name, ""), 1.0) for name, macs in dense.items())
    )
