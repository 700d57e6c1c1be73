"""Measurements on a fixed sample of training images: losses, gradients and input norms.

The model is measured in evaluation mode (running statistics stay, dropout is off), with the masks in force; gradients
of parameters are not touched.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from midstate.common.seeds import seed_for
from midstate.sparsity.tensors import Layer, input_of

# Larger batches are slower on a CPU: their activations leave the cache and are paged in anew each time.
EVAL_BATCH = 250
GRADIENT_BATCH = 50  # activations are kept until the backward pass
NUM_NORM_IMAGES = 128  # Wanda's number of calibration samples
NUM_FISHER_IMAGES = 128  # each costs a backward pass of its own
NUM_VECTORS = 8  # vectors of random signs for each batch, to estimate the Hessian's trace
NUM_TRIED = 2  # images for testing whether a measurement can be made


@dataclass(frozen=True)
class Sample:
    """Training images (N, C, H, W) and their labels (N,).

    Args:
        images: images to measure on.
        labels: their classes.
        tuning: images for the finetune of a trial, which may be among `images`; None: no scheme is tried.
        held_out: images of the training split on which a trial is measured, none of them in `tuning`.
    """

    images: Tensor
    labels: Tensor
    tuning: "Sample | None" = None
    held_out: "Sample | None" = None

    def first(self, number: int) -> "Sample":
        """The first `number` images, without `tuning` and `held_out`."""
        return Sample(self.images[:number], self.labels[:number])

    def to(self, device: torch.device | str) -> "Sample":
        """The same images on a device, `tuning` and `held_out` as well."""
        parts = [each and each.to(device) for each in (self.tuning, self.held_out)]
        return Sample(self.images.to(device), self.labels.to(device), *parts)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, `size` at a time."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; afterwards every module has the mode that it had before."""
    with modes_restored(model):
        model.eval()
        yield


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module when the context ends; a frozen BatchNorm may be in another than the model."""
    training, modes = model.training, [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        model.train(training)  # first, because a module's own `train` may do more than set the mode
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def mean_loss(model: nn.Module, sample: Sample) -> float:
    """Mean cross-entropy in evaluation mode."""
    total = 0.0
    with evaluation(model):
        for images, labels in sample.batches(EVAL_BATCH):
            total += float(F.cross_entropy(model(images), labels, reduction="sum"))
    return total / len(sample.labels)


@torch.no_grad()
def input_norms(model: nn.Module, layers: Sequence[Layer], sample: Sample) -> list[Tensor]:
    """Root mean square of every input channel of each layer, over images and positions.

    Args:
        model: in any mode; one forward pass over the first images is made in evaluation mode.
        layers: layers of the model.
        sample: at most the first 128 images are used.

    Returns:
        One vector (C,) a layer, C over all groups of a grouped convolution.

    Raises:
        ValueError: the forward pass does not call a layer's module, or its inputs are not known.
    """
    squares: dict[int, list[Tensor]] = {}  # one mean a call: a module may be called more than once

    def record(layer: Layer, inputs: tuple, named: dict[str, Any]) -> None:
        features = input_of(layer.module, inputs, named, layer.input_index)
        channel = 1 if layer.is_conv else features.dim() - 1
        others = [dim for dim in range(features.dim()) if dim != channel]
        squares.setdefault(layer.depth, []).append(features.float().square().mean(others))

    hooks = [
        layer.module.register_forward_pre_hook(lambda _, *given, layer=layer: record(layer, *given), with_kwargs=True)
        for layer in layers
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


def gradients(model: nn.Module, layers: Sequence[Layer], sample: Sample) -> list[Tensor]:
    """Gradient of the mean cross-entropy on the sample, with respect to the weight that each layer uses.

    Under a mask this is the masked weight; its pruned entries have a gradient, too: the slope of the loss if they
    came back. Takes one backward pass over the sample, in batches.
    """
    totals = [torch.zeros_like(layer.weight, requires_grad=False) for layer in layers]
    for images, labels in sample.batches(GRADIENT_BATCH):
        for total, part in zip(totals, _gradients(model, layers, images, labels), strict=True):
            total.add_(part)
    return [total / len(sample.labels) for total in totals]


def fishers(model: nn.Module, layers: Sequence[Layer], sample: Sample) -> list[Tensor]:
    """Diagonal of the empirical Fisher: mean squared gradient of single images' losses.

    With respect to the weight that each layer uses, as in `gradients`; the first 128 images take a backward pass each.
    """
    sample = sample.first(NUM_FISHER_IMAGES)
    totals = [torch.zeros_like(layer.weight, requires_grad=False) for layer in layers]
    for images, labels in sample.batches(1):
        for total, part in zip(totals, _gradients(model, layers, images, labels), strict=True):
            total.addcmul_(part, part)
    return [total / len(sample.labels) for total in totals]


def hessian_traces(
    model: nn.Module, layers: Sequence[Layer], sample: Sample, generators: Sequence[Generator], num_vectors: int
) -> list[Tensor]:
    """Trace of the Hessian of the mean loss with respect to the weight that each layer uses (Hutchinson).

    The mean of v'Hv over vectors v of random signs. One vector holds the signs of all layers, so that one product with
    H serves them all; cross terms between layers have mean 0. New vectors are drawn for every batch.

    Args:
        model: in any mode; it is evaluated in evaluation mode.
        layers: layers of the model.
        sample: all of it is used.
        generators: one a layer, on the CPU.
        num_vectors: number of vectors for each batch of images.
    """
    totals = [torch.zeros((), dtype=torch.float64) for _ in layers]
    for images, labels in sample.batches(GRADIENT_BATCH):
        with evaluation(model), torch.enable_grad(), reproducible(), parametrize.cached(), sdpa_kernel(SDPBackend.MATH):
            used = [layer.weight for layer in layers]  # SDPBackend.MATH: fused attention has no second derivative
            loss = F.cross_entropy(model(images), labels, reduction="sum")
            slopes = _slopes(loss, used, layers, create_graph=True)
            for _ in range(num_vectors):
                signs = [_signs(weight, generator) for weight, generator in zip(used, generators, strict=True)]
                products = torch.autograd.grad(slopes, used, signs, retain_graph=True, materialize_grads=True)
                for total, sign, product in zip(totals, signs, products, strict=True):
                    total.add_((sign * product).sum(dtype=torch.float64).cpu())
    return [total / (num_vectors * len(sample.labels)) for total in totals]


def _signs(like: Tensor, generator: Generator) -> Tensor:
    return (2 * torch.randint(0, 2, like.shape, generator=generator) - 1).to(like)


@contextmanager
def reproducible() -> Iterator[None]:
    """Make cuDNN deterministic, because masks are made from the results: in every process, and after resuming."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _gradients(model: nn.Module, layers: Sequence[Layer], images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a batch's summed loss."""
    with evaluation(model), torch.enable_grad(), reproducible(), parametrize.cached():
        used = [layer.weight for layer in layers]  # cached, so that the forward pass reads the same tensors
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        return _slopes(loss, used, layers)


def _slopes(
    loss: Tensor, used: Sequence[Tensor], layers: Sequence[Layer], create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of a loss with respect to the weights that layers use.

    Raises:
        ValueError: a layer is frozen, or the loss does not depend on it.
    """
    if frozen := [layer.name for layer, weight in zip(layers, used, strict=True) if not weight.requires_grad]:
        raise ValueError(f"{frozen}: are frozen, and gradients are measured; leave them out with pruner.exclude")
    found = torch.autograd.grad(loss, used, create_graph=create_graph, allow_unused=True)
    if missing := [layer.name for layer, each in zip(layers, found, strict=True) if each is None]:
        raise ValueError(f"the loss has no gradient by {missing}; leave them out with pruner.exclude")
    return found


MEASURES = {"gradient": gradients, "fisher": fishers, "input_norm": input_norms}  # by their names in `needs`


def measured(
    name: str, model: nn.Module, layers: Sequence[Layer], sample: Sample, seed: int, num_vectors: int = NUM_VECTORS
) -> Sequence[Tensor]:
    """One tensor a layer: a measurement by its name in `needs`.

    Args:
        name: a key of `MEASURES`, or `hessian_trace`.
        model: the model to measure.
        layers: layers of the model.
        sample: training images.
        seed: of the random vectors of `hessian_trace`.
        num_vectors: number of these vectors for each batch.
    """
    if name != "hessian_trace":
        return MEASURES[name](model, layers, sample)
    draws = [Generator().manual_seed(seed_for(seed, "hutchinson", i)) for i in range(len(layers))]
    return hessian_traces(model, layers, sample, draws, num_vectors)


def try_measuring(
    owner: str, needs: Sequence[str], sample: Sample | None, measure: Callable[[str, Sample], object]
) -> None:
    """Raise ValueError, before training, if a needed measurement cannot be made.

    Args:
        owner: the word in messages for the object that takes the sample.
        needs: names of measurements on training images.
        sample: training images, if there are any.
        measure: makes one measurement, tried on a few images.
    """
    if needs and sample is None:
        raise ValueError(f"this method measures on training images; give the {owner} a sample")
    if "trial" in needs and (sample.tuning is None or sample.held_out is None):
        raise ValueError(f"this method tries schemes; give the {owner} a sample with images to tune and to hold out")
    for name in needs:
        if name in (*MEASURES, "hessian_trace"):
            measure(name, sample.first(NUM_TRIED))
