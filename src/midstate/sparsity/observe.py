"""What is measured on a fixed sample of training images: losses and input norms."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstate.sparsity.scope import Layer

# Larger batches are slower on a CPU: their activations leave the cache and are paged in anew each time.
EVAL_BATCH = 250
NUM_NORM_IMAGES = 128  # Wanda's number of calibration samples


@dataclass(frozen=True)
class Sample:
    """Training images (N, C, H, W) and their labels (N,)."""

    images: Tensor
    labels: Tensor


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
def mean_loss(model: nn.Module, sample: Sample) -> float:
    """Mean cross-entropy in evaluation mode; the model is left as it was."""
    total = 0.0
    with evaluation(model):
        for images, labels in zip(sample.images.split(EVAL_BATCH), sample.labels.split(EVAL_BATCH), strict=True):
            total += float(F.cross_entropy(model(images), labels, reduction="sum"))
    return total / len(sample.labels)


@torch.no_grad()
def input_norms(model: nn.Module, layers: Sequence[Layer], sample: Sample) -> list[Tensor]:
    """Root mean square of every input channel of each layer, over images and positions.

    Args:
        model: in any mode; one forward pass over the first images is made in evaluation mode.
        layers: of the model.
        sample: at most the first 128 images are used.

    Returns:
        One vector (C,) a layer, C over all groups of a grouped convolution.
    """
    squares: dict[int, list[Tensor]] = {}  # one mean a call: a module may be called more than once

    def record(layer: Layer, inputs: tuple) -> None:
        features = inputs[layer.input_index]
        channel = 1 if layer.is_conv else features.dim() - 1
        others = [dim for dim in range(features.dim()) if dim != channel]
        squares.setdefault(layer.depth, []).append(features.float().square().mean(others))

    hooks = [
        layer.module.register_forward_pre_hook(lambda _, inputs, layer=layer: record(layer, inputs)) for layer in layers
    ]
    try:
        with evaluation(model):
            model(sample.images[:NUM_NORM_IMAGES])
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [layer.name for layer in layers if layer.depth not in squares]:
        raise ValueError(f"the inputs of {missing} cannot be observed; leave them out with pruner.exclude")
    return [torch.stack(squares[layer.depth]).mean(0).sqrt() for layer in layers]
