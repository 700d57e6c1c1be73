"""Masks on the layers of a model: setting them, and the estimator's rules around an optimizer step."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from midstate.sparsity.batchnorm import Channels
from midstate.sparsity.masks import Masked
from midstate.sparsity.method import Method
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.tensors import Layer, fold, remove_parametrizations


class Attached:
    """The parametrizations that a pruner has put on its layers; `masked` is empty until attached and after removal."""

    def __init__(self, method: Method, layers: Sequence[Layer]) -> None:
        self.method, self.layers = method, layers
        self.weights: list[Tensor] = [layer.weight for layer in layers]  # as the optimizer has them
        self.masked: list[Masked] = []
        self._channels: Channels | None = None  # bias, gamma and beta, if they are masked too
        self._before: dict[int, Tensor | None] = {}  # results of `before_step`, by index of the layer

    @property
    def masks(self) -> list[Tensor]:
        """Masks in force, one a layer."""
        return [masked.mask for masked in self.masked]

    def attach(self, levels: Sequence[Level] | None, norms: Sequence[_BatchNorm | None]) -> None:
        """Put masks of ones on every layer.

        Args:
            levels: target levels, one a layer; None if not decided yet.
            norms: the BatchNorm that reads each layer, one a layer; empty if the method needs none.
        """
        method = self.method
        for i, layer in enumerate(self.layers):
            memory = method.estimator.memory(self.weights[i], method.pattern, levels and levels[i])
            if method.path.fades:
                memory = {"scale": torch.ones_like(self.weights[i], requires_grad=False), **memory}
            self.masked.append(Masked(self.weights[i], method.estimator, memory))
            parametrize.register_parametrization(layer.module, layer.tensor_name, self.masked[i], unsafe=True)
            self.weights[i] = layer.module.parametrizations[layer.tensor_name].original
        if method.estimator.whole_channels:
            self._channels = Channels(self.layers, norms, method.pattern, method.estimator)

    def set_masks(self, masks: Sequence[Tensor], levels: Sequence[Level] | None) -> None:
        """Set masks, and the scales that belong to them, in place (the buffers stay the same tensors).

        Args:
            masks: one a layer, of the weight's shape; on a path that fades, factors from 0 to 1.
            levels: target levels, one a layer; None if nothing is pruned yet.
        """
        estimator, fades = self.method.estimator, self.method.path.fades
        for i, (masked, mask) in enumerate(zip(self.masked, masks, strict=True)):
            masked.mask.copy_(mask)  # a weight with a factor above 0 is in use
            if estimator.scales and levels is not None:
                weight = self.weights[i].detach()
                scale = estimator.scale(weight, masked.mask, self.method.pattern, levels[i], masked.memory)
                masked.scale.copy_(scale)
            elif fades:
                masked.scale.fill_(1)
            if fades:
                masked.scale.mul_(mask)
        if self._channels:
            self._channels.set_masks(masks)

    def refreshed(self, progress: float) -> None:
        """Let estimator and update act on the weights after new masks were set."""
        for weight, masked in zip(self.weights, self.masked, strict=True):
            self.method.estimator.refreshed(weight, masked.mask, masked.memory, progress)
            self.method.update.refreshed(weight, masked.mask)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Restore masks, and all buffers beside them, when the context ends."""
        every = [*self.masked, *(self._channels.masked if self._channels else [])]
        before = [(buffer, buffer.clone()) for masked in every for buffer in masked.buffers()]
        try:
            yield
        finally:
            for buffer, saved in before:
                buffer.copy_(saved)

    @contextmanager
    def masked_training(self) -> Iterator[None]:
        """Apply the masks in training passes, too, within the context, whatever the estimator."""
        for masked in self.masked:
            masked.always = True
        try:
            yield
        finally:
            for masked in self.masked:
                masked.always = False

    def before_step(self, only: Collection[int] | None = None) -> None:
        """Change gradients by the estimator's rule, for tensors whose `id` is in `only` (None: all)."""
        if self._channels:
            self._channels.before_step(only)
        for i, masked in enumerate(self.masked):
            if only is None or id(self.weights[i]) in only:
                self._before[i] = self.method.estimator.before_step(self.weights[i], masked.mask, masked.memory)

    def after_step(self, optimizer: Optimizer, only: Collection[int] | None = None) -> None:
        """Undo optimizer changes against the estimator's rule, for tensors whose `id` is in `only` (None: all)."""
        for i in [i for i in self._before if only is None or id(self.weights[i]) in only]:
            self.method.estimator.after_step(self.weights[i], self.masked[i].mask, self._before.pop(i), optimizer)
        if self._channels:
            self._channels.after_step(optimizer, only)

    def remove(self) -> None:
        """Remove the parametrizations and leave the unmasked weights."""
        for layer in self.layers if self.masked else []:
            remove_parametrizations(layer.module, layer.tensor_name, leave_parametrized=False)
        self.masked, self._before = [], {}
        if self._channels:
            self._channels.remove()
            self._channels = None

    def fold(self) -> None:
        """Fold the masks in force into the weights and leave a plain model."""
        with self.masked_training():
            for layer in self.layers if self.masked else []:
                fold(layer)
        self.masked, self._before = [], {}
        if self._channels:
            self._channels.finalise()
            self._channels = None
