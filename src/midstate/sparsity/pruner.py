"""The pruner: a method attached to a model. The only part of `sparsity` that has state."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from midstate.sparsity import calibration
from midstate.sparsity.allocation import Candidate, uniform_cost
from midstate.sparsity.calibration import Sample
from midstate.sparsity.criteria import Seen
from midstate.sparsity.masked import Masked
from midstate.sparsity.method import Method
from midstate.sparsity.nm import Level
from midstate.sparsity.paths import Place
from midstate.sparsity.patterns import verify
from midstate.sparsity.schedules import Schedule
from midstate.sparsity.scheme import scheme_text


def seed_for(seed: int, *purpose: object) -> int:
    """Derive an independent 63-bit seed for a purpose, such as ("order", epoch)."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Pruner:
    """Walks a model from dense to its target.

    Attach it after pretrained weights are loaded and before the optimizer is made. Call `tick` before
    the forward pass of each step, `before_step` and `after_step` around the optimizer's step,
    `refresh` before an evaluation, `finalise` at the end.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        schedule: Schedule,
        steps_per_epoch: int,
        total_steps: int,
        seed: int = 0,
        classifier: str | None = None,
        uses: Mapping[str, int] | None = None,
        sample: Sample | None = None,
    ) -> None:
        """Attach masks of ones to every layer in scope.

        Args:
            model: a plain model on its device; its layers in scope get a parametrization each.
            method: the axes.
            schedule: curve and window, placed in the run of `total_steps`.
            steps_per_epoch: optimizer steps an epoch.
            total_steps: optimizer steps of the run.
            seed: of the random orders.
            classifier: name of the classifier module, for the scope.
            uses: multiply-accumulates of one weight on one image, by layer name; None: 1 each.
            sample: training images with labels, for what is measured; None: methods that measure are refused.

        Raises:
            ValueError: the scope, window, update or allocation does not fit this model and run.
        """
        self.model, self.method, self.seed, self.sample = model, method, seed, sample
        self.layers = method.scope.resolve(model, classifier, method.pattern)
        self.window = schedule.window(steps_per_epoch, total_steps)
        self.levels: list[Level] | None = None  # of the target; None until the allocation has decided
        self._masked: list[Masked] = []
        self._weights = [layer.weight for layer in self.layers]
        self._shapes = [weight.shape for weight in self._weights]
        self._before: list[Tensor | None] = []
        if method.dense:
            return
        self.window = method.path.window(self.window)
        self.ticks = method.update.resolve(self.window, steps_per_epoch, total_steps)
        self._uses = [(uses or {}).get(layer.name, 1) for layer in self.layers]
        self._classifier = classifier
        if method.allocation.refresh == "never":
            self.levels = method.allocation.allocate(method.pattern, self._candidates([]))
        if sample is None and (method.criterion.observes or method.allocation.measures):
            raise ValueError("this method measures on training images; give the pruner a sample")
        for i, layer in enumerate(self.layers):
            masked = Masked(self._shapes[i], self._weights[i].device, method.estimator)
            parametrize.register_parametrization(layer.module, layer.tensor_name, masked, unsafe=True)
            self._weights[i] = layer.module.parametrizations[layer.tensor_name].original
            self._masked.append(masked)
        self._epoch_masks = [mask.clone() for mask in self.masks]

    @property
    def masks(self) -> list[Tensor]:
        """The current masks, one per layer in scope; empty when dense."""
        return [masked.mask for masked in self._masked]

    def due(self, step: int) -> bool:
        """Tell whether `tick` would refresh the masks at `step`."""
        return not self.method.dense and self.ticks.due(step)

    def tick(self, step: int) -> None:
        """Refresh the masks before the forward pass of `step`, if that is due."""
        if self.due(step):
            self.refresh(step)

    def open(self, step: int) -> bool:
        """Tell whether masks may still change at `step`."""
        return not self.method.dense and self.ticks.open(step)

    @torch.no_grad()
    def refresh(self, step: int) -> None:
        """Refresh the masks from the present weights, as for an evaluation; no change once they are frozen."""
        if not self.open(step):
            return
        self.set_masks(self.masks_at(self.window.progress(step), step))
        for weight, masked in zip(self._weights, self._masked, strict=True):
            self.method.estimator.refreshed(weight, masked.mask)

    @torch.no_grad()
    def masks_at(self, progress: float, step: int) -> list[Tensor]:
        """Compute the masks that the present weights give at `progress`, without setting them.

        Allocations that decide from measurements do so when the first unit is to go, or at every call.
        """
        method = self.method
        if progress == 0:
            return [torch.ones_like(mask) for mask in self.masks]
        seen = self._observe(method.criterion.observes)
        if self.levels is None or method.allocation.refresh == "tick":
            self.levels = method.allocation.allocate(method.pattern, self._candidates(seen))
        places = [
            Place(weight, partial(self._score, i, seen, level), level, mask, self._order(i, step))
            for i, (weight, level, mask) in enumerate(zip(self._weights, self.levels, self.masks, strict=True))
        ]
        masks = method.path.masks(method.pattern, places, progress)
        return [method.pattern.expand(mask, shape) for mask, shape in zip(masks, self._shapes, strict=True)]

    def set_masks(self, masks: list[Tensor]) -> None:
        """Put masks in place, and the scales that go with them (the buffers stay the same tensors)."""
        estimator = self.method.estimator
        for i, (masked, mask) in enumerate(zip(self._masked, masks, strict=True)):
            masked.mask.copy_(mask)
            if estimator.scales and self.levels is not None:
                scale = estimator.scale(self._weights[i].detach(), mask, self.method.pattern, self.levels[i])
                masked.scale.copy_(scale)

    @contextmanager
    def masked_training(self) -> Iterator[None]:
        """Let training passes see the masks, too, whatever the estimator, for the time of the context."""
        for masked in self._masked:
            masked.always = True
        try:
            yield
        finally:
            for masked in self._masked:
                masked.always = False

    def before_step(self, optimizer: Optimizer) -> None:
        """Change gradients as the estimator says; call after unscaling and before clipping."""
        estimator = self.method.estimator
        self._before = [
            estimator.before_step(weight, masked.mask)
            for weight, masked in zip(self._weights, self._masked, strict=False)
        ]

    def after_step(self, optimizer: Optimizer) -> None:
        """Undo what the optimizer did against the estimator's rule; call after the optimizer's step."""
        for weight, masked, before in zip(self._weights, self._masked, self._before, strict=False):
            self.method.estimator.after_step(weight, masked.mask, before, optimizer)
        self._before = []

    def kept(self) -> list[float]:
        """Share of each layer's weights in use under the current masks."""
        if self.method.dense:
            return [1.0] * len(self.layers)
        return [int(mask.sum()) / mask.numel() for mask in self.masks]

    def end_epoch(self) -> dict[str, float]:
        """Compare with the last call: share of weights `kept`, shares of units that changed and that came back."""
        if self.method.dense:
            return {"kept": 1.0, "churn": 0.0, "revived": 0.0}
        total = sum(mask.numel() for mask in self.masks)
        units = self.method.pattern.units
        pairs = [(units(mask), units(last)) for mask, last in zip(self.masks, self._epoch_masks, strict=True)]
        num_units = sum(mask.numel() for mask, _ in pairs)
        row = {
            "kept": sum(int(mask.sum()) for mask in self.masks) / total,
            "churn": sum(int((mask != last).sum()) for mask, last in pairs) / num_units,
            "revived": sum(int((mask & ~last).sum()) for mask, last in pairs) / num_units,
        }
        self._epoch_masks = [mask.clone() for mask in self.masks]
        return row

    def describe(self, step: int) -> str:
        """The current state in a few words, such as '4:16' or '1:16 on 37 % of blocks'."""
        return self._describe(self.window.progress(step))

    def states(self) -> list[str]:
        """Names of the states at the pattern's own jumps, dense first."""
        if self.method.dense:
            return ["dense"]
        num_jumps = self.method.pattern.num_jumps
        return [self._describe(k / num_jumps) for k in range(num_jumps)] + [self._describe(1.0)]

    def _describe(self, progress: float) -> str:
        if self.method.dense:
            return "dense"
        pattern = self.method.pattern
        target = pattern.title if self.method.allocation.uniform else f"mixed {pattern.title}"
        return self.method.path.describe(pattern, target, progress)

    def finalise(self) -> None:
        """Fold the masks of the last evaluation into the weights and leave a plain model."""
        with self.masked_training():
            for layer in self.layers if self._masked else []:
                parametrize.remove_parametrizations(layer.module, layer.tensor_name, leave_parametrized=True)
        self._masked = []

    def verify(self) -> bool | None:
        """Tell whether the finalised weights are what was promised, layer by layer; None when dense."""
        if self.method.dense:
            return None
        return self.levels is not None and all(
            verify(layer.weight.detach(), self.method.pattern, level)
            for layer, level in zip(self.layers, self.levels, strict=True)
        )

    def targets(self) -> list[float]:
        """Share of weights each layer is to keep at the end, counted nominally."""
        if self.method.dense or self.levels is None:
            return [1.0] * len(self.layers)
        return [
            self.method.pattern.kept(shape, level) / shape.numel()
            for shape, level in zip(self._shapes, self.levels, strict=True)
        ]

    def nominal_densities(self) -> list[float]:
        """The densities papers count with: uniform ones before rounding to whole units."""
        if self.method.dense or not self.method.allocation.uniform or self.method.pattern.name == "nm":
            return self.targets()
        return [1 - self.method.pattern.sparsity] * len(self.layers)

    @property
    def by_filter(self) -> bool:
        """Tell whether whole filters go."""
        return not self.method.dense and self.method.pattern.name == "filter"

    def allocation_report(self) -> dict[str, float] | None:
        """How the allocation compares with the uniform one.

        Returns:
            `params_slack` and `macs_slack`, the shares of the uniform allocation's weights and
            multiply-accumulates left unused (negative: more than uniform), counted nominally; `moved`, the
            share of prunable weights in layers (or filters) that left the uniform level. None when dense.
        """
        if self.method.dense or self.levels is None:
            return None
        pattern, layers = self.method.pattern, self._candidates([])
        pairs = list(zip(layers, self.levels, strict=True))
        slack = {}
        for budget in ("params", "macs"):
            used = sum(layer.cost(pattern, level, budget) for layer, level in pairs)
            slack[f"{budget}_slack"] = 1 - used / uniform_cost(pattern, layers, budget)
        moved = sum(
            layer.shape.numel() * float(torch.as_tensor(level).ne(pattern.target(layer.shape)).float().mean())
            for layer, level in pairs
        )
        return {**slack, "moved": moved / sum(shape.numel() for shape in self._shapes)}

    def scheme(self) -> str | None:
        """The target levels as a file that `Scheme` reads; None when dense."""
        if self.method.dense or self.levels is None:
            return None
        return scheme_text(self.method.pattern, [layer.name for layer in self.layers], self.levels)

    def state_dict(self) -> dict[str, Any]:
        """What the model's own state_dict (weights and masks) does not hold."""
        return {} if self.method.dense else {"epoch_masks": self._epoch_masks, "levels": self.levels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back `state_dict`."""
        if not self.method.dense:
            self._epoch_masks = [mask.to(m.device) for mask, m in zip(state["epoch_masks"], self.masks, strict=True)]
            self.levels = state["levels"]

    def _observe(self, what: str | None) -> list[Tensor]:
        """Input norms of all layers, where a criterion looks at them."""
        return calibration.input_norms(self.model, self.layers, self.sample) if what else []

    def _score(self, i: int, norms: list[Tensor], level: Level | None) -> Tensor:
        """Scores of layer i's units, as they count beside the mask in force."""
        method = self.method
        seen = Seen(self._generator("criterion", i), level, norms[i] if norms else None)
        score = method.criterion.score(self._weights[i].detach(), method.pattern, seen)
        return method.update.adjust(score, method.pattern.units(self.masks[i]))

    def _joint_score(self, i: int, norms: list[Tensor]) -> Tensor:
        """Scores of layer i's units where layers are compared: what may not come back is worth nothing."""
        return self._score(i, norms, None).clamp_min(0)

    def _order(self, i: int, step: int) -> Generator:
        """Source of layer i's random order: the same at every refresh, with no state to save, unless asked."""
        return self._generator("order", i, *([step] if self.method.path.redraws else []))

    def _generator(self, *purpose: object) -> Generator:
        return Generator().manual_seed(seed_for(self.seed, *purpose))

    def _candidates(self, norms: list[Tensor]) -> list[Candidate]:
        """The layers as an allocation sees them."""
        return [
            Candidate(
                name=layer.name,
                shape=self._shapes[i],
                uses=self._uses[i],
                is_first=layer.depth == 0,
                is_classifier=layer.name == self._classifier,
                weight=self._weights[i].detach(),
                score=partial(self._joint_score, i, norms),
                loss=partial(self._loss, i, norms),
                input_norm=partial(self._input_norm, i),
                generator=self._generator("allocation", i),
            )
            for i, layer in enumerate(self.layers)
        ]

    def _loss(self, i: int, norms: list[Tensor], level: Level) -> float:
        """Loss on the sample with layer i at a level and every other layer as it is."""
        mask, pattern = self.masks[i], self.method.pattern
        before = mask.clone()
        mask.copy_(pattern.expand(pattern.mask(self._score(i, norms, level), level), mask.shape))
        loss = calibration.mean_loss(self.model, self.sample)
        mask.copy_(before)
        return loss

    def _input_norm(self, i: int) -> Tensor:
        return calibration.input_norms(self.model, [self.layers[i]], self.sample)[0]
