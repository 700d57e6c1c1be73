"""What the axes of a method see of a network: scores, candidates for allocations, places on a path."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from torch import Generator, Tensor, nn

from midstate.common.seeds import seed_for
from midstate.sparsity import observe
from midstate.sparsity.allocations.base import Candidate
from midstate.sparsity.criteria.base import Seen
from midstate.sparsity.masks import Masked
from midstate.sparsity.method import Method
from midstate.sparsity.observe import Sample
from midstate.sparsity.paths.base import Place
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.scope import Layer
from midstate.sparsity.updates.drop_grow import exchange_scores


@dataclass(frozen=True)
class View:
    """One network under one method; holds no state of its own, the weights and masks are the pruner's."""

    model: nn.Module
    method: Method
    layers: Sequence[Layer]
    weights: Sequence[Tensor]
    masked: Sequence[Masked]  # one a layer once attached, and its mask in force
    uses: Sequence[int]
    classifier: Collection[str]  # names of its layers
    seed: int
    sample: Sample | None
    gammas: Sequence[Tensor | None] = ()  # one a layer, of the BatchNorm that reads it, where the method observes it
    before_measuring: list[Callable[[], None]] = field(default_factory=list)  # called before each loss is measured

    def input_norms(self, observed: str | None) -> Sequence[Tensor] | None:
        """Input norms of all layers, where a criterion looks at them."""
        observed = observed == "input_norm"
        return observe.input_norms(self.model, self.layers, self.sample) if observed else None

    def try_measuring(self) -> None:
        """Raise ValueError if what the method measures cannot be measured here: before training, not in its midst."""
        method = self.method
        if not (method.criterion.observes or method.allocation.measures):
            return
        if self.sample is None:
            raise ValueError("this method measures on training images; give the pruner a sample")
        if "input_norm" in (method.criterion.observes, method.allocation.observes):
            observe.input_norms(self.model, self.layers, self.sample)

    def places(self, levels: Sequence[Level], norms: Sequence[Tensor] | None, step: int) -> list[Place]:
        """The layers as a path sees them."""
        return [
            Place(
                self.weights[i].detach(),
                partial(self._score, i, norms, level),
                level,
                each.mask,
                self._order(i, step),
                each.memory.get("alpha"),
            )
            for i, (level, each) in enumerate(zip(levels, self.masked, strict=True))
        ]

    def exchanging(self, places: Sequence[Place], masks: Sequence[Tensor], share: float, step: int) -> list[Place]:
        """The places again, scored so that a share of the units in use gives way to pruned ones.

        Args:
            places: of all layers.
            masks: what their paths keep of what is in force.
            share: of each layer's units in use, 0..1; a layer that was dense until now exchanges none.
            step: of which random growth is a function.
        """
        update = self.method.update

        def score(i: int) -> Tensor:
            place, each = places[i], self.masked[i]
            growth = update.growth(each.mask, each.memory, self._generator("growth", i, step))
            return exchange_scores(masks[i], place.score(), growth, 0.0 if place.mask.all() else share)

        return [
            replace(place, score=partial(score, i), generator=self._order(i, step)) for i, place in enumerate(places)
        ]

    def swapped(self, masks: list[Tensor], step: int) -> list[Tensor]:
        """Masks after the update's forced swaps, the same for every call at one step."""
        pattern, update = self.method.pattern, self.method.update
        return [
            pattern.expand(update.swap(pattern.units(mask), self._generator("swaps", i, step)), mask.shape)
            for i, mask in enumerate(masks)
        ]

    def attainable(self, levels: list[Level]) -> list[Level]:
        """Levels without what can no longer be had: where nothing may regrow, no more units than are in use."""
        pattern = self.method.pattern
        if self.method.update.regrow == "free" or pattern.name not in ("weight", "filter"):
            return levels
        return [
            min(level, int(pattern.units(each.mask).sum())) for level, each in zip(levels, self.masked, strict=True)
        ]

    def candidates(self, norms: Sequence[Tensor] | None = None) -> list[Candidate]:
        """The layers as an allocation sees them."""

        @cache
        def all_norms() -> Sequence[Tensor]:
            return norms or observe.input_norms(self.model, self.layers, self.sample)

        return [
            Candidate(
                name=layer.name,
                shape=self.weights[i].shape,
                uses=self.uses[i],
                is_first=layer.depth == 0,
                is_classifier=layer.name in self.classifier,
                weight=self.weights[i].detach(),
                score=partial(self._joint_score, i, norms),
                loss=partial(self._loss, i, norms),
                input_norm=lambda i=i: all_norms()[i],
                generator=self._generator("allocation", i),
            )
            for i, layer in enumerate(self.layers)
        ]

    def _score(self, i: int, norms: Sequence[Tensor] | None, level: Level | None) -> Tensor:
        """Scores of layer i's units, as they count beside the mask in force."""
        method = self.method
        gamma = self.gammas[i] if self.gammas else None
        seen = Seen(self._generator("criterion", i), level, norms[i] if norms else None, gamma=gamma)
        score = method.criterion.score(self.weights[i].detach(), method.pattern, seen)
        first = None if level is None else self._generator("initial", i)
        return method.update.adjust(score, method.pattern.units(self.masked[i].mask), first)

    def _joint_score(self, i: int, norms: Sequence[Tensor] | None) -> Tensor:
        """Scores of layer i's units where layers are compared: what may not come back is worth nothing."""
        return self._score(i, norms, None).clamp_min(0)

    def _order(self, i: int, step: int) -> Generator:
        """Source of layer i's random order: the same at every refresh, with no state to save, unless asked."""
        return self._generator("order", i, *([step] if self.method.path.redraws else []))

    def _generator(self, *purpose: object) -> Generator:
        return Generator().manual_seed(seed_for(self.seed, *purpose))

    def _loss(self, i: int, norms: Sequence[Tensor] | None, level: Level) -> float:
        """Loss on the sample with layer i at a level and every other layer as it is."""
        for call in self.before_measuring:
            call()
        mask, pattern = self.masked[i].mask, self.method.pattern
        before = mask.clone()
        mask.copy_(pattern.expand(pattern.mask(self._score(i, norms, level), level), mask.shape))
        loss = observe.mean_loss(self.model, self.sample)
        mask.copy_(before)
        return loss
