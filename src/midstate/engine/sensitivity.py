"""Sensitivity: how much a finished network loses when one layer alone is harmed.

Each layer in turn is harmed in one way, measured on validation images, and put back:

- `share`: a given share of its weights in use goes, smallest first;
- `params`: the same number of weights goes from every layer, that share of the layer with fewest in use;
- `noise`: all its weights in use are replaced by Gaussian noise of their own deviation (a control);
- `first_half`, `second_half`: the same as `share`, measured on one half of the images: how far ranks can be trusted.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from midstate.common import training_limits
from midstate.common.numbers import floor
from midstate.common.seeds import seed_for
from midstate.data import Split
from midstate.engine.evaluate import evaluate
from midstate.sparsity import Layer

KINDS, HALVES = training_limits.CHANGES, training_limits.HALVES
COLUMNS = ("layer", "depth", "params", "kind", "removed", "loss_rise", "top1_drop")


@torch.no_grad()
def sensitivities(
    model: nn.Module, layers: list[Layer], split: Split, share: float, seed: int, kinds: Sequence[str] = KINDS
) -> list[dict[str, Any]]:
    """Measure every layer under every kind of harm.

    Args:
        model: finished and plain; left as it was.
        layers: of the model.
        split: images to measure on.
        share: share of a layer's weights in use that goes, 0..1.
        seed: of the noise.
        kinds: kinds of harm, see the top of this file.

    Returns:
        One row (`COLUMNS`) a layer and kind: number of `removed` weights, `loss_rise` in nats, `top1_drop` in points;
        both positive where the network got worse.
    """
    splits = {kind: _measured_on(split, kind) for kind in kinds}
    befores = {kind: evaluate(model, each) for kind, each in splits.items()}
    smallest = min(int(layer.weight.count_nonzero()) for layer in layers)
    rows = []
    for layer in layers:
        weight = layer.weight.detach()
        original = weight.clone()
        for kind in kinds:
            harmed = _harmed(original, kind, share, smallest, seed_for(seed, "sensitivity", layer.name))
            weight.copy_(harmed)
            before, after = befores[kind], evaluate(model, splits[kind])
            rows.append(
                {
                    "layer": layer.name,
                    "depth": layer.depth,
                    "params": weight.numel(),
                    "kind": kind,
                    "removed": int(original.count_nonzero() - harmed.count_nonzero()),
                    "loss_rise": after["loss"] - before["loss"],
                    "top1_drop": before["top1"] - after["top1"],
                }
            )
        weight.copy_(original)
    return rows


def _measured_on(split: Split, kind: str) -> Split:
    """The images that a kind of harm is measured on."""
    if kind not in HALVES:
        return split
    middle = len(split) // 2
    part = slice(middle) if kind == "first_half" else slice(middle, None)
    return Split(split.images[part], split.labels[part])


def _harmed(weight: Tensor, kind: str, share: float, smallest: int, seed: int) -> Tensor:
    """A layer's weights after one kind of harm."""
    in_use = weight != 0
    if not in_use.any():  # nothing to remove, and no deviation of its own for the noise
        return weight
    if kind in ("share", *HALVES):
        return without_smallest(weight, floor(share * int(in_use.sum())))
    if kind == "params":
        return without_smallest(weight, floor(share * smallest))
    noise = torch.randn(weight.shape, generator=Generator().manual_seed(seed)).to(weight.device)
    return noise * weight[in_use].std(unbiased=False) * in_use


def without_smallest(weight: Tensor, count: int) -> Tensor:
    """Return a copy without its `count` smallest non-zero weights; among equal ones the first go."""
    flat = weight.flatten().clone()
    magnitude = flat.abs().masked_fill(flat == 0, torch.inf)
    flat[magnitude.sort(stable=True).indices[:count]] = 0
    return flat.view(weight.shape)
