"""Masks on the layers of a model: what is in force, and what it means around an optimizer step."""

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
from midstate.sparsity.tensors import Layer, fold


class Attached:
    """The parametrizations that a pruner has put on its layers; empty lists until attached, and once folded."""

    def __init__(self, method: Method, layers: Sequence[Layer]) -> None:
        self.method, self.layers = method, layers
        self.weights: list[Tensor] = [layer.weight for layer in layers]  # as the optimizer has them
        self.masked: list[Masked] = []
        self._channels: Channels | None = None  # what goes beside the weights
        self._before: dict[int, Tensor | None] = {}  # by place

    @property
    def masks(self) -> list[Tensor]:
        """Masks in force, one a layer."""
        return [masked.mask for masked in self.masked]

    def attach(self, levels: Sequence[Level] | None, norms: Sequence[_BatchNorm | None]) -> None:
        """Put masks of ones on every layer.

        Args:
            levels: target levels, one a layer; None: not known yet.
            norms: the BatchNorm that reads each layer, where the method asks for them.
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
        """Put masks in place, and the scales that go with them (the buffers stay the same tensors).

        Args:
            masks: one a layer, of weights; on a path that fades, factors.
            levels: target levels; None where nothing is pruned yet.
        """
        estimator, fades = self.method.estimator, self.method.path.fades
        for i, (masked, mask) in enumerate(zip(self.masked, masks, strict=True)):
            masked.mask.copy_(mask)  # whatever has a factor is in use
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
        """Let estimator and update act on the weights under new masks."""
        for weight, masked in zip(self.weights, self.masked, strict=True):
            self.method.estimator.refreshed(weight, masked.mask, masked.memory, progress)
            self.method.update.refreshed(weight, masked.mask)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Put masks and what goes with them back as they were before the context."""
        every = [*self.masked, *(self._channels.masked if self._channels else [])]
        before = [(buffer, buffer.clone()) for masked in every for buffer in masked.buffers()]
        try:
            yield
        finally:
            for buffer, saved in before:
                buffer.copy_(saved)

    @contextmanager
    def masked_training(self) -> Iterator[None]:
        """Let training passes see the masks, too, whatever the estimator, for the time of the context."""
        for masked in self.masked:
            masked.always = True
        try:
            yield
        finally:
            for masked in self.masked:
                masked.always = False

    def before_step(self, only: Collection[int] | None = None) -> None:
        """Change gradients as the estimator says; of the tensors whose `id` is among `only`, or of all."""
        if self._channels:
            self._channels.before_step(only)
        for i, masked in enumerate(self.masked):
            if only is None or id(self.weights[i]) in only:
                self._before[i] = self.method.estimator.before_step(self.weights[i], masked.mask, masked.memory)

    def after_step(self, optimizer: Optimizer, only: Collection[int] | None = None) -> None:
        """Undo what the optimizer did against the estimator's rule; of the tensors among `only`, or of all."""
        for i in [i for i in self._before if only is None or id(self.weights[i]) in only]:
            self.method.estimator.after_step(self.weights[i], self.masked[i].mask, self._before.pop(i), optimizer)
        if self._channels:
            self._channels.after_step(optimizer, only)

    def remove(self) -> None:
        """Take the parametrizations off and leave the weights as they are without them."""
        for layer in self.layers if self.masked else []:
            parametrize.remove_parametrizations(layer.module, layer.tensor_name, leave_parametrized=False)
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
