"""The BatchNorm that reads a layer; and masks on bias, gamma and beta of pruned filters."""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from midstate.sparsity.estimators.base import Estimator
from midstate.sparsity.masks import Masked
from midstate.sparsity.method import Method
from midstate.sparsity.observe import Sample, evaluation
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.tensors import Layer, input_of, remove_parametrizations

NUM_IMAGES = 2


@torch.no_grad()
def batchnorms_of(model: nn.Module, layers: Sequence[Layer], sample: Sample) -> list[_BatchNorm | None]:
    """Find the BatchNorm whose input is a layer's output itself, with nothing between.

    Args:
        model: in any mode; one forward pass is made in evaluation mode.
        layers: layers of the model.
        sample: its first images are used.

    Returns:
        One BatchNorm a layer; None if the layer has none of its own: another operation lies between, several
        BatchNorms read its output, the one that does is called more than once, or it has no gamma.
    """
    outputs: dict[int, tuple[Tensor, int, int]] = {}  # by id; tensors are kept alive, so that no id is reused
    pairs: list[tuple[int, _BatchNorm]] = []
    num_calls: dict[_BatchNorm, int] = {}

    def made(place: int, output: Tensor) -> None:
        if isinstance(output, Tensor):  # with its version: an in-place activation between raises it
            outputs[id(output)] = (output, output._version, place)

    def read(norm: _BatchNorm, features: Tensor) -> None:
        num_calls[norm] = num_calls.get(norm, 0) + 1
        _, version, place = outputs.get(id(features), (None, None, None))
        if version == features._version:
            pairs.append((place, norm))

    hooks = [
        layer.module.register_forward_hook(lambda _, inputs, output, place=place: made(place, output))
        for place, layer in enumerate(layers)
    ]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.affine]
    hooks += [
        norm.register_forward_pre_hook(lambda norm, *given: read(norm, input_of(norm, *given)), with_kwargs=True)
        for norm in norms
    ]
    try:
        with evaluation(model):
            model(sample.images[:NUM_IMAGES])
    finally:
        for hook in hooks:
            hook.remove()
    return [_own(place, layer, pairs, num_calls) for place, layer in enumerate(layers)]


def _own(
    place: int, layer: Layer, pairs: Sequence[tuple[int, _BatchNorm]], num_calls: dict[_BatchNorm, int]
) -> _BatchNorm | None:
    readers = [norm for each, norm in pairs if each == place]
    fits = len(readers) == 1 and num_calls[readers[0]] == 1 and readers[0].num_features == layer.weight.shape[0]
    return readers[0] if fits else None


def needed_batchnorms(
    model: nn.Module, method: Method, layers: Sequence[Layer], sample: Sample | None
) -> list[_BatchNorm | None]:
    """Find the BatchNorms of a method's layers, see `batchnorms_of`; an empty list if it needs none.

    Raises:
        ValueError: there is no sample; or criterion or penalty need gammas, and a layer has no BatchNorm of its own.
    """
    observing = [part for part in (method.criterion, method.penalty) if part and "batchnorm_scale" in part.needs]
    if not (observing or method.estimator.whole_channels):
        return []
    if sample is None:
        raise ValueError("this method looks for BatchNorms with training images; give the pruner a sample")
    norms = batchnorms_of(model, layers, sample)
    missing = [layer.name for layer, norm in zip(layers, norms, strict=True) if norm is None]
    if observing and missing:
        raise ValueError(
            f"{type(observing[0]).__name__} needs a BatchNorm that reads the layer's output and nothing else; "
            f"{', '.join(missing)} has none: exclude it, by pruner.exclude"
        )
    return norms


class Channels:
    """Bias, gamma and beta of each filter, masked with it, so that the whole channel of a pruned filter is zero.

    Without these masks, a pruned channel would be a constant: BatchNorm's beta, or the bias.
    """

    def __init__(
        self, layers: Sequence[Layer], norms: Sequence[_BatchNorm | None], pattern: Pattern, estimator: Estimator
    ) -> None:
        """Put masks of ones on the bias of every layer and on gamma and beta of its BatchNorm, if there are any."""
        self.pattern, self.estimator = pattern, estimator
        self._owners = list(_vectors(layers, norms))
        self.masked = []
        self._before: dict[int, Tensor | None] = {}  # results of `before_step`, by index of the vector
        for _, module, name in self._owners:
            masked = Masked(getattr(module, name), estimator)
            parametrize.register_parametrization(module, name, masked, unsafe=True)
            self.masked.append(masked)

    def set_masks(self, masks: Sequence[Tensor]) -> None:
        """Set the masks of filters, from masks of all layers' weights."""
        for (place, _, _), masked in zip(self._owners, self.masked, strict=True):
            masked.mask.copy_(self.pattern.units(masks[place]))

    def before_step(self, only: Collection[int] | None = None) -> None:
        """Change gradients by the estimator's rule, see `Attached`."""
        for i, each in enumerate(self._each()):
            if only is None or id(each[0]) in only:
                self._before[i] = self.estimator.before_step(*each)

    def after_step(self, optimizer: Optimizer, only: Collection[int] | None = None) -> None:
        """Undo what the optimizer did against that rule, see `Attached`."""
        for i, (vector, mask, _) in enumerate(self._each()):
            if i in self._before and (only is None or id(vector) in only):
                self.estimator.after_step(vector, mask, self._before.pop(i), optimizer)

    def finalise(self) -> None:
        """Fold the masks in and leave plain modules."""
        self.remove(folded=True)

    def remove(self, folded: bool = False) -> None:
        """Leave plain modules, with unmasked vectors, or with the masks folded in."""
        for _, module, name in self._owners:
            remove_parametrizations(module, name, leave_parametrized=folded)
        self._owners, self.masked = [], []

    def _each(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
        for (_, module, name), masked in zip(self._owners, self.masked, strict=True):
            yield module.parametrizations[name].original, masked.mask, masked.memory


def _vectors(layers: Sequence[Layer], norms: Sequence[_BatchNorm | None]) -> Iterator[tuple[int, nn.Module, str]]:
    """Index of the layer, module and name of each vector that has one entry for each of the layer's filters."""
    for place, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
        if layer.tensor_name == "weight" and layer.module.bias is not None:
            yield place, layer.module, "bias"
        if norm is not None:
            yield from ((place, norm, "weight"), (place, norm, "bias"))
