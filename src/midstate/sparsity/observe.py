"""Measurements on a fixed sample of training images: losses, gradients and input norms.

The model is in evaluation mode meanwhile (no running statistic moves, nothing is drawn) and left as it was; masks in
force are applied, and gradients of parameters are not touched.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from midstate.common.seeds import seed_for
from midstate.sparsity.tensors import Layer

# Larger batches are slower on a CPU: their activations leave the cache and are paged in anew each time.
EVAL_BATCH = 250
GRADIENT_BATCH = 50  # activations are kept until the backward pass
NUM_NORM_IMAGES = 128  # Wanda's number of calibration samples
NUM_FISHER_IMAGES = 128  # each costs a backward pass of its own
NUM_VECTORS = 8  # of random signs for each batch, by which the Hessian's trace is estimated
NUM_TRIED = 2  # images by which it is found out whether something can be measured


@dataclass(frozen=True)
class Sample:
    """Training images (N, C, H, W) and their labels (N,).

    Args:
        images: to measure on.
        labels: of these.
        tuning: other images, or some of the same, that schemes are finetuned on before a trial; None: none are tried.
        held_out: images of the training split that are not among `tuning`, on which a trial is measured.
    """

    images: Tensor
    labels: Tensor
    tuning: "Sample | None" = None
    held_out: "Sample | None" = None

    def first(self, number: int) -> "Sample":
        """The first images."""
        return Sample(self.images[:number], self.labels[:number])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, `size` at a time."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)


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
        for images, labels in sample.batches(EVAL_BATCH):
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


def gradients(model: nn.Module, layers: Sequence[Layer], sample: Sample) -> list[Tensor]:
    """Gradient of the mean cross-entropy on the sample, by the weight that each layer uses.

    Under a mask that weight is the masked one, and pruned entries have a gradient, too: what the loss would do if they
    came back. One backward pass of the sample.
    """
    totals = [torch.zeros_like(layer.weight, requires_grad=False) for layer in layers]
    for images, labels in sample.batches(GRADIENT_BATCH):
        for total, part in zip(totals, _gradients(model, layers, images, labels), strict=True):
            total.add_(part)
    return [total / len(sample.labels) for total in totals]


def fishers(model: nn.Module, layers: Sequence[Layer], sample: Sample) -> list[Tensor]:
    """Diagonal of the empirical Fisher: mean square of the gradients of single images' losses.

    By the weight that each layer uses, as `gradients`; of the sample's first 128 images, a backward pass each.
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
    """Trace of each layer's block of the Hessian of the mean loss, by the weight that the layer uses (Hutchinson).

    The mean of v'Hv over vectors v of random signs. One vector holds the signs of all layers, so that a product with H
    serves them all; what one layer's signs meet in another's has mean 0. Every batch has vectors of its own.

    Args:
        model: in any mode; it is evaluated in evaluation mode.
        layers: of the model.
        sample: all of it is used.
        generators: one a layer.
        num_vectors: for each batch of images.
    """
    totals = [torch.zeros((), dtype=torch.float64) for _ in layers]
    for images, labels in sample.batches(GRADIENT_BATCH):
        with evaluation(model), torch.enable_grad(), reproducible(), parametrize.cached(), sdpa_kernel(SDPBackend.MATH):
            used = [layer.weight for layer in layers]  # fused attention has no second derivative
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
    """Have cuDNN give the same bits in every process, and after resuming: masks are made from them."""
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
        used = [layer.weight for layer in layers]  # cached: what the pass reads is these very tensors
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        return _slopes(loss, used, layers)


def _slopes(
    loss: Tensor, used: Sequence[Tensor], layers: Sequence[Layer], create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of a loss by the weights that layers use.

    Raises:
        ValueError: some layer has none, or is frozen.
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
        name: of `MEASURES`, or `hessian_trace`.
        model: that is measured.
        layers: of it.
        sample: of training images.
        seed: of what `hessian_trace` draws.
        num_vectors: of its random vectors for each batch.
    """
    if name != "hessian_trace":
        return MEASURES[name](model, layers, sample)
    draws = [Generator().manual_seed(seed_for(seed, "hutchinson", i)) for i in range(len(layers))]
    return hessian_traces(model, layers, sample, draws, num_vectors)


def try_measuring(
    owner: str, needs: Sequence[str], sample: Sample | None, measure: Callable[[str, Sample], object]
) -> None:
    """Raise ValueError if what is needed cannot be measured: before training, not in its midst.

    Args:
        owner: who is to have a sample, for the message.
        needs: names of measurements on training images.
        sample: of them, if there is one.
        measure: makes one measurement, tried on a few images.
    """
    if needs and sample is None:
        raise ValueError(f"this method measures on training images; give the {owner} a sample")
    if "trial" in needs and (sample.tuning is None or sample.held_out is None):
        raise ValueError(f"this method tries schemes; give the {owner} a sample with images to tune and to hold out")
    for name in needs:
        if name in (*MEASURES, "hessian_trace"):
            measure(name, sample.first(NUM_TRIED))
