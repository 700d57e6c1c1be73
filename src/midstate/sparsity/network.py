"""One network under one method: makes a view of every layer; one measurement serves all layers."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor, nn

from midstate.sparsity import observe
from midstate.sparsity.coupled import CoupledView, Coupling
from midstate.sparsity.layers import MEASURED, NEEDS, LayerView, NotMeasured
from midstate.sparsity.masks import Masked
from midstate.sparsity.method import Method
from midstate.sparsity.observe import Sample
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.search import Search
from midstate.sparsity.tensors import Layer, shape_of
from midstate.sparsity.updates.drop_grow import exchange_scores

log = logging.getLogger(__name__)
BY_LAYER = tuple(name for name in NEEDS if name not in ("loss", "trial"))  # a tensor for each layer
MEASURED_BY_LAYER = tuple(name for name in BY_LAYER if name in MEASURED)


@dataclass(frozen=True)
class Network:
    """Holds no state of its own: the weights and masks are the pruner's."""

    model: nn.Module
    method: Method
    layers: Sequence[Layer]
    weights: Sequence[Tensor]
    masked: Sequence[Masked]  # one a layer once attached, with the mask in force
    macs: Sequence[int]
    classifier: Collection[str]  # names of its layers
    seed: int
    sample: Sample | None
    scales: Sequence[Tensor | None] = ()  # gamma of the BatchNorm that reads each layer, if needed
    before_measuring: list[Callable[[], None]] = field(default_factory=list)  # called before each measured loss or size
    search: Search | None = None  # if the allocation tries schemes
    sizes_of: Callable[[Mapping[str, Tensor]], Mapping[str, int]] | None = None  # `sizes` of `Pruner`
    coupling: Coupling | None = None  # if coupled channels are ranked

    def try_measuring(self) -> None:
        """Raise ValueError, before training, if a measurement that the method needs cannot be made here."""
        needs = [name for name in self.method.needs if name in MEASURED]
        observe.try_measuring("pruner", needs, self.sample, self._measure)

    def try_scoring(self) -> None:
        """Raise ValueError, before training, if the criterion reads a measurement that its `needs` does not name.

        The smallest layer is scored, with tensors of ones for its measurements.
        """
        criterion, pattern = self.method.criterion, self.method.pattern
        view = min(self.views(), key=lambda view: view.shape.numel())
        ones = {name: lambda: torch.ones_like(view.weight) for name in self.method.needs}
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=()):
                criterion.score(replace(view, level=pattern.target(view.shape), measure=ones), pattern)
        except NotMeasured as error:
            needs = (*getattr(criterion, "needs", ()), error.field)
            raise ValueError(
                f"criterion={type(criterion).__name__}: looks at layer.{error.field}, which its `needs` does not name; "
                f"write needs = {needs!r}"
            ) from error
        except Exception as error:  # the ones may have a wrong shape; a real fault shows at the first refresh
            log.debug(f"criterion not tried: {error}")

    def views(self, step: int = 0) -> list[LayerView]:
        """The layers as they are now, without levels; all views of one call share each measurement."""
        needs = self.method.needs
        shared = {name: cache(lambda name=name: self._measure(name)) for name in needs if name in BY_LAYER}
        return [
            LayerView(
                parameter=weight,
                name=layer.name,
                index=i,
                macs=self.macs[i],
                is_first=layer.depth == 0,
                is_classifier=layer.name in self.classifier,
                **shape_of(layer),
                in_force=self.masked[i].mask if self.masked else None,
                step=step,
                seed=self.seed,
                memory=self.masked[i].memory if self.masked else {},
                score_of=self._joint_score,
                loss_of=self._loss if "loss" in needs else None,
                search=self.search,
                measure={name: lambda i=i, every=every: every()[i] for name, every in shared.items()},
            )
            for i, (layer, weight) in enumerate(zip(self.layers, self.weights, strict=True))
        ]

    def ranked(self, step: int = 0) -> list[LayerView]:
        """Views within which units are ranked, without levels: of the layers, or of groups of coupled channels."""
        views = self.views(step)
        return views if self.coupling is None else self.coupling.views(views)

    def spread(self, masks: Sequence[Tensor]) -> list[Tensor]:
        """From masks of units, one for each ranked view, to masks of all layers' weights."""
        if self.coupling is not None:
            return self.coupling.spread(masks)
        return [self.method.pattern.expand(mask, w.shape) for mask, w in zip(masks, self.weights, strict=True)]

    def layer_levels(self, levels: Sequence[Level]) -> Sequence[Level]:
        """The levels of all layers, from those of the ranked views."""
        return levels if self.coupling is None else self.coupling.layer_levels(levels)

    def at(self, views: Sequence[LayerView], levels: Sequence[Level]) -> list[LayerView]:
        """Copies of the views with target levels."""
        if self.coupling is not None:
            views = self.coupling.at(views, levels)
        return [replace(view, level=level, score_of=self._score) for view, level in zip(views, levels, strict=True)]

    def exchanging(self, views: Sequence[LayerView], masks: Sequence[Tensor], share: float) -> list[LayerView]:
        """Copies of the views, scored so that pruned units replace a share of the units in use.

        Args:
            views: of all layers, with levels.
            masks: those of the path, restricted to the masks in force.
            share: of each layer's units in use, 0..1; a layer that was dense until now exchanges none.
        """
        update = self.method.update

        def score(layer: LayerView) -> Tensor:
            growth = update.growth(layer)
            return exchange_scores(masks[layer.index], self._score(layer), growth, 0.0 if layer.mask.all() else share)

        return [replace(view, score_of=score) for view in views]

    def swapped(self, views: Sequence[LayerView], masks: Sequence[Tensor]) -> list[Tensor]:
        """Masks after the update's forced swaps, the same for every call at one step."""
        pattern, update = self.method.pattern, self.method.update
        return [
            pattern.expand(update.swap(pattern.units(mask), layer.generator("swaps", layer.step)), mask.shape)
            for layer, mask in zip(views, masks, strict=True)
        ]

    def attainable(self, levels: list[Level]) -> list[Level]:
        """Levels that can still be reached: if nothing may regrow, no more units than are in use."""
        pattern = self.method.pattern
        if self.method.update.regrow == "free" or pattern.group not in ("layer", "coupled"):
            return levels
        if self.coupling is not None:
            in_use = [view.units(pattern, self._masks()) for view in self.ranked()]
            return [min(level, int(mask.sum(0).min())) for level, mask in zip(levels, in_use, strict=True)]
        return [
            min(level, int(pattern.units(each.mask).sum())) for level, each in zip(levels, self.masked, strict=True)
        ]

    def sizes(self, views: Sequence[LayerView], levels: Sequence[Level]) -> Mapping[str, int]:
        """Parameters and multiply-accumulates of the extracted network at target levels."""
        for call in self.before_measuring:
            call()
        pattern, layers = self.method.pattern, self.at(views, levels)
        masks = self.spread(self.method.path.masks(pattern, layers, 1.0))
        return self.sizes_of({layer.name: mask for layer, mask in zip(self.layers, masks, strict=True)})

    def _measure(self, name: str, sample: Sample | None = None) -> Sequence[Tensor]:
        """One tensor a layer, measured on a sample (None: the network's own)."""
        sample = sample or self.sample
        if name == "batchnorm_scale":
            return self.scales
        if name == "step_gradient":
            return [each.memory["gradient"] for each in self.masked]
        vectors = getattr(self.method.allocation, "vectors", observe.NUM_VECTORS)
        return observe.measured(name, self.model, self.layers, sample, self.seed, vectors)

    def _score(self, layer: LayerView) -> Tensor:
        """Scores of a layer's units, adjusted by the update to the mask in force."""
        method = self.method
        first = None if layer.level is None else layer.generator("initial")
        if isinstance(layer, CoupledView):
            scores = [method.criterion.score(member, method.pattern) for member in layer.members]
            in_use = layer.units(method.pattern, self._masks())
            return method.update.adjust(layer.combined(scores, method.pattern.combine), in_use, first)
        score = method.criterion.score(layer, method.pattern)
        return method.update.adjust(score, method.pattern.units(layer.mask), first)

    def _masks(self) -> list[Tensor]:
        """The masks in force, one a layer; all ones until attached."""
        if self.masked:
            return [each.mask for each in self.masked]
        return [torch.ones((), dtype=torch.bool, device=weight.device).expand(weight.shape) for weight in self.weights]

    def _joint_score(self, layer: LayerView) -> Tensor:
        """Scores for comparing layers: units that may not come back (-1) count 0."""
        return self._score(layer).clamp_min(0)

    def _loss(self, layer: LayerView, level: Level) -> float:
        """Loss on the sample with one layer at a level and every other layer as it is."""
        for call in self.before_measuring:
            call()
        pattern, mask = self.method.pattern, layer.mask
        before = mask.clone()
        mask.copy_(pattern.expand(pattern.mask(self._score(replace(layer, level=level)), level), mask.shape))
        try:
            return observe.mean_loss(self.model, self.sample)
        finally:
            mask.copy_(before)
