"""The pruner: a composition of axes attached to a model. The only part of `sparsity` that has state."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from midstate.sparsity.allocation import Uniform
from midstate.sparsity.criteria import L1
from midstate.sparsity.estimators import STE, Hard
from midstate.sparsity.paths import Path
from midstate.sparsity.patterns import NM
from midstate.sparsity.schedules import Schedule
from midstate.sparsity.scope import Scope
from midstate.sparsity.updates import Update


def seed_for(seed: int, *purpose: object) -> int:
    """Derive an independent 63-bit seed for a purpose, such as ("order", epoch)."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Method:
    """The axes of a pruning method. A dense run has a scope and nothing else."""

    scope: Scope
    pattern: NM | None = None
    criterion: L1 | None = None
    allocation: Uniform | None = None
    path: Path | None = None
    update: Update | None = None
    estimator: Hard | STE | None = None

    def __post_init__(self) -> None:
        axes = ("pattern", "criterion", "allocation", "path", "update", "estimator")
        missing = [axis for axis in axes if getattr(self, axis) is None]
        if missing and len(missing) < len(axes):
            raise ValueError(f"pruner: {', '.join(missing)} missing; a method has all axes, dense only a scope")

    @property
    def dense(self) -> bool:
        """Tell whether nothing is pruned."""
        return self.pattern is None


class Masked(nn.Module):
    """Parametrization of one tensor by a bool mask, refreshed in place."""

    def __init__(self, shape: torch.Size, device: torch.device, estimator: Hard | STE) -> None:
        super().__init__()
        self.estimator = estimator
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool, device=device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that the layer uses."""
        return self.estimator.apply(weight, self.mask)


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

        Raises:
            ValueError: the scope, window or update does not fit this model and run.
        """
        self.method, self.seed = method, seed
        self.layers = method.scope.resolve(model, classifier, method.pattern)
        self.window = schedule.window(steps_per_epoch, total_steps)
        self._masked: list[Masked] = []
        self._weights = [layer.weight for layer in self.layers]
        self._before: list[Tensor | None] = []
        if method.dense:
            return
        self.window = method.path.window(self.window)
        self.ticks = method.update.resolve(self.window, steps_per_epoch, total_steps)
        self.levels = method.allocation.levels(self._weights, method.pattern)
        for i, layer in enumerate(self.layers):
            masked = Masked(self._weights[i].shape, self._weights[i].device, method.estimator)
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

    def refresh(self, step: int) -> None:
        """Refresh the masks from the present weights, as for an evaluation; no change once they are frozen."""
        if self.open(step):
            self.set_masks(self.masks_at(self.window.progress(step)))

    @torch.no_grad()
    def masks_at(self, progress: float) -> list[Tensor]:
        """Compute the masks that the present weights give at `progress`, without setting them."""
        method = self.method
        masks = []
        for i, weight in enumerate(self._weights):
            # One fixed permutation a layer: the same at every tick, with no state to save.
            generator = Generator().manual_seed(seed_for(self.seed, "order", i))
            score = method.criterion.score(weight)
            masks.append(method.path.mask(method.pattern, weight, score, self.levels[i], progress, generator))
        return masks

    def set_masks(self, masks: list[Tensor]) -> None:
        """Put masks in place (the buffers stay the same tensors)."""
        for masked, mask in zip(self._masked, masks, strict=True):
            masked.mask.copy_(mask)

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
        """Compare with the last call: `kept`, and the shares of units that changed and that came back."""
        total = sum(weight.numel() for weight in self._weights)
        if self.method.dense:
            return {"kept": 1.0, "churn": 0.0, "revived": 0.0}
        pairs = list(zip(self.masks, self._epoch_masks, strict=True))
        row = {
            "kept": sum(int(mask.sum()) for mask, _ in pairs) / total,
            "churn": sum(int((mask != last).sum()) for mask, last in pairs) / total,
            "revived": sum(int((mask & ~last).sum()) for mask, last in pairs) / total,
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
        # The layers share one level under uniform allocation; the first speaks for all.
        return self.method.path.describe(self.method.pattern, self.levels[0], progress)

    def finalise(self) -> None:
        """Fold the masks of the last evaluation into the weights and leave a plain model."""
        for layer in self.layers if self._masked else []:
            parametrize.remove_parametrizations(layer.module, layer.tensor_name, leave_parametrized=True)
        self._masked = []

    def verify(self) -> bool | None:
        """Tell whether the finalised weights obey the pattern; None when dense."""
        if self.method.dense:
            return None
        return all(
            self.method.pattern.verify(layer.weight, level)
            for layer, level in zip(self.layers, self.levels, strict=True)
        )

    def targets(self) -> list[float]:
        """Share of weights each layer is to keep at the end."""
        if self.method.dense:
            return [1.0] * len(self.layers)
        return [
            self.method.pattern.density(layer.weight.shape, level)
            for layer, level in zip(self.layers, self.levels, strict=True)
        ]

    def state_dict(self) -> dict[str, list[Tensor]]:
        """What the model's own state_dict (weights and masks) does not hold."""
        return {} if self.method.dense else {"epoch_masks": self._epoch_masks}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Take back `state_dict`."""
        if not self.method.dense:
            self._epoch_masks = [mask.to(m.device) for mask, m in zip(state["epoch_masks"], self.masks, strict=True)]
