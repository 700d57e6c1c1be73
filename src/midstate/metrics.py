"""What is counted: accuracy and loss, parameters, multiply-accumulates (MACs)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstate.data import Split
from midstate.sparsity import Layer, weight_layers

# Larger batches are slower on a CPU: their activations leave the cache and are paged in anew each time.
EVAL_BATCH = 250


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for the time of the context."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def evaluate(model: nn.Module, split: Split) -> dict[str, float]:
    """Return mean `loss`, and `top1` and `top5` in percent, over a split; leaves the training mode as it was."""
    totals = torch.zeros(3, dtype=torch.float64)
    with evaluation(model):
        for start in range(0, len(split), EVAL_BATCH):
            labels = split.labels[start : start + EVAL_BATCH]
            logits = model(split.images[start : start + EVAL_BATCH])
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            totals += (
                torch.stack([F.cross_entropy(logits, labels, reduction="sum"), ranked[:, 0].sum(), ranked.sum()])
                .double()
                .cpu()
            )
    loss, top1, top5 = (totals / len(split)).tolist()
    return {"loss": loss, "top1": 100 * top1, "top5": 100 * top5}


@torch.no_grad()
def weight_uses(model: nn.Module, sample: Tensor) -> dict[str, int]:
    """Count how often one image uses each weight: output positions of a convolution, tokens of a linear layer.

    Args:
        model: any model; one forward pass is made in evaluation mode.
        sample: a batch (N, C, H, W).

    Returns:
        Uses per image by layer name, as `weight_layers` names them. MACs of a layer = weights * uses.
    """
    uses: dict[str, int] = {}

    def add(name: str, features: Tensor, channel_dim: int) -> None:
        positions = features.numel() // features.shape[channel_dim]
        uses[name] = uses.get(name, 0) + positions // len(sample)

    def hook(layer: Layer) -> Callable:
        def record(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if isinstance(module, nn.MultiheadAttention):
                source = {"k_proj_weight": 1, "v_proj_weight": 2}.get(layer.tensor_name, 0)
                add(layer.name, inputs[source], -1)
                if source == 0:  # its output projection is called as a function, so no hook would see it
                    add(layer.name.removesuffix(layer.tensor_name) + "out_proj", inputs[0], -1)
            else:
                add(layer.name, output, -1 if isinstance(module, nn.Linear) else 1)

        return record

    hooks = [layer.module.register_forward_hook(hook(layer)) for layer in weight_layers(model)]
    with evaluation(model):
        model(sample)
    for handle in hooks:
        handle.remove()
    return uses


def count(model: nn.Module, layers: list[Layer], uses: dict[str, int]) -> dict[str, int | float]:
    """Count the finished model.

    Args:
        model: a plain model, masks folded in.
        layers: its prunable layers.
        uses: from `weight_uses`.

    Returns:
        `params_total`, `params_prunable` (weights in `layers`), `params_nonzero` (of all parameters),
        `sparsity` (zeros among the prunable), `sparsity_total` (the same zeros among all parameters),
        `macs_dense` and `macs_sparse` per image: convolutions, linear layers and attention projections,
        1 MAC = one multiply and one add, zero weights not counted in the second.
    """
    prunable = sum(layer.weight.numel() for layer in layers)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    total = sum(p.numel() for p in model.parameters())
    weights = [(layer.weight, uses.get(layer.name, 0)) for layer in weight_layers(model)]
    return {
        "params_total": total,
        "params_prunable": prunable,
        "params_nonzero": sum(int(p.count_nonzero()) for p in model.parameters()),
        "sparsity": zeros / prunable,
        "sparsity_total": zeros / total,
        "macs_dense": sum(weight.numel() * used for weight, used in weights),
        "macs_sparse": sum(int(weight.count_nonzero()) * used for weight, used in weights),
    }
