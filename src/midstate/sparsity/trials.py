"""Trials of schemes: a short finetune at given levels, then top-1 on held-out images; everything is restored."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from midstate.common import checks
from midstate.sparsity.observe import EVAL_BATCH, Sample, evaluation, modes_restored, reproducible
from midstate.sparsity.patterns.nm import Level


@dataclass(frozen=True)
class Finetune:
    """Settings of the finetune before a trial: SGD with momentum, always from the same weights on the same batches.

    Args:
        trial_steps: SGD steps; 0: schemes are measured without a finetune.
        trial_lr: learning rate, constant.
        trial_momentum: momentum of SGD.
        trial_weight_decay: weight decay of SGD, on all parameters.
        trial_batch: images a step.
        trial_images: images of the training split to finetune on.
        held_out: further images of the training split, on which a trial is measured.
    """

    trial_steps: int = 20
    trial_lr: float = 1e-3
    trial_momentum: float = 0.9
    trial_weight_decay: float = 4e-5
    trial_batch: int = 64
    trial_images: int = 1280
    held_out: int = 1000

    def __post_init__(self) -> None:
        checks.integer("trial_steps", self.trial_steps, 0)
        checks.number("trial_lr", self.trial_lr, 0)
        checks.number("trial_momentum", self.trial_momentum, 0, 1)
        checks.number("trial_weight_decay", self.trial_weight_decay, 0)
        for name in ("trial_batch", "trial_images", "held_out"):
            checks.integer(name, getattr(self, name), 1)

    def split(self, sample: Sample) -> tuple[Sample, Sample]:
        """Split the first images of a sample: `trial_images` to finetune on, then `held_out` to measure on.

        Raises:
            ValueError: the sample has fewer images.
        """
        if len(sample.labels) < self.trial_images + self.held_out:
            raise ValueError(
                f"trial_images={self.trial_images}, held_out={self.held_out}: are more than the "
                f"{len(sample.labels)} training images; ask for fewer"
            )
        tuning, held_out = slice(self.trial_images), slice(self.trial_images, self.trial_images + self.held_out)
        return Sample(sample.images[tuning], sample.labels[tuning]), Sample(
            sample.images[held_out], sample.labels[held_out]
        )


@dataclass(frozen=True)
class Trials:
    """Tries schemes on one network; needs memory for two more copies of the weights and for gradients.

    Gradients of parameters are set to None; all else is restored, to the bit.

    Args:
        model: with its parametrizations attached.
        settings: settings of the finetune.
        sample: with `tuning` and `held_out`.
        seed: seed of the order of images and of the network's random draws, the same in every trial.
        at_levels: context that puts a scheme in force; entered with the weights from before the finetune.
    """

    model: nn.Module
    settings: Finetune
    sample: Sample
    seed: int
    at_levels: Callable[[Sequence[Level]], AbstractContextManager[None]]

    def dense_top1(self) -> float:
        """Top-1 of the network as it is, in percent, on the held-out images."""
        return top1(self.model, self.sample.held_out)

    def trial(self, levels: Sequence[Level]) -> float:
        """Top-1 in percent at given levels after the finetune; NaN if it diverged."""
        with _restored(self.model), self.at_levels(levels), reproducible():
            return top1(self.model, self.sample.held_out) if self._finetune() else math.nan

    def _finetune(self) -> bool:
        """Finetune in place; tell whether every loss was finite."""
        settings, tuning = self.settings, self.sample.tuning
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(
            parameters, settings.trial_lr, settings.trial_momentum, weight_decay=settings.trial_weight_decay
        )
        torch.manual_seed(self.seed)
        self.model.train()
        for chosen in _order(len(tuning.labels), settings, self.seed):
            chosen = chosen.to(tuning.labels.device)
            with torch.enable_grad():
                loss = F.cross_entropy(self.model(tuning.images[chosen]), tuning.labels[chosen])
                # Not backward(): it would call the hooks that others have on gradients.
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            if not math.isfinite(loss):
                return False
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        return True


@torch.no_grad()
def top1(model: nn.Module, sample: Sample) -> float:
    """Top-1 in percent in evaluation mode; NaN if an output is not finite."""
    correct = 0
    with evaluation(model):
        for images, labels in sample.batches(EVAL_BATCH):
            logits = model(images)
            if not bool(logits.isfinite().all()):
                return math.nan
            correct += int((logits.argmax(1) == labels).sum())
    return 100 * correct / len(sample.labels)


def _order(num_images: int, settings: Finetune, seed: int) -> Iterator[Tensor]:
    """Indices of the images of each step: epochs of shuffled images, without a partial last batch."""
    generator = Generator().manual_seed(seed)
    size = min(settings.trial_batch, num_images)
    batches = iter(())
    for _ in range(settings.trial_steps):
        batch = next(batches, None)
        if batch is None:
            batches = iter(torch.randperm(num_images, generator=generator)[: num_images // size * size].split(size))
            batch = next(batches)
        yield batch


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore parameters, buffers, modes and torch's generators when the context ends; gradients are set to None."""
    tensors = [*model.parameters(), *model.buffers()]
    saved = [tensor.detach().clone() for tensor in tensors]
    devices = sorted({tensor.device.index for tensor in tensors if tensor.is_cuda})
    _drop_gradients(model)
    try:
        with torch.random.fork_rng(devices), modes_restored(model):
            yield
    finally:
        _drop_gradients(model)
        with torch.no_grad():
            for tensor, before in zip(tensors, saved, strict=True):
                tensor.copy_(before)


def _drop_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None
