"""The pruner: a method attached to a model. The only part of `sparsity` that has state."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from midstate.sparsity.allocations.domino import Walk, press
from midstate.sparsity.allocations.extracted import allocate_extracted, counted_nominally, is_extracted
from midstate.sparsity.allocations.fitting import compare_with_uniform
from midstate.sparsity.allocations.scheme import scheme_text
from midstate.sparsity.attached import Attached
from midstate.sparsity.batchnorm import needed_batchnorms
from midstate.sparsity.coupled import Coupled, coupling_of
from midstate.sparsity.history import NO_CHANGES, MaskHistory
from midstate.sparsity.layers import LayerView
from midstate.sparsity.method import Method
from midstate.sparsity.network import Network
from midstate.sparsity.observe import Sample
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import verify
from midstate.sparsity.permutation import Reordering
from midstate.sparsity.schedules import Schedule
from midstate.sparsity.tensors import Layer, names_of, weight_layers
from midstate.sparsity.updates.base import NEVER
from midstate.sparsity.walker import Walker


class Pruner(Walker):
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
        classifier: str | Collection[str] | None = None,
        uses: Mapping[str, int] | None = None,
        sample: Sample | None = None,
        sizes: Callable[[Mapping[str, Tensor]], Mapping[str, int]] | None = None,
        coupled: Sequence[Coupled] | None = None,
        reordering: Reordering | None = None,
    ) -> None:
        """Attach masks of ones to every layer in scope.

        Args:
            model: a plain model on its device; its layers in scope get a parametrization each.
            method: the axes.
            schedule: curve and window, placed in the run of `total_steps`.
            steps_per_epoch: optimizer steps an epoch.
            total_steps: optimizer steps of the run.
            seed: seed of all random draws.
            classifier: name of the classifier, or names of its layers, for scope and allocation.
            uses: multiply-accumulates of one weight on one image, by layer name; None: 1 each.
            sample: training images with labels, for measurements; None: methods that measure are refused.
            sizes: function from masks, by layer name, to parameters and multiply-accumulates of the extracted network,
                see `midstate.compaction.sizes_under_masks`; None: budgets that count them are refused.
            coupled: which filters go together, from `midstate.compaction.coupled_channels`; for pattern=channel.
            reordering: orders channels before the first mask, such as `midstate.compaction.Reordering`; for `permute`.

        Raises:
            ValueError: scope, window, update or allocation do not fit model and run, or a needed argument is missing.
        """
        super().__init__()
        self.method = method
        layers = method.scope.resolve(model, classifier, method.pattern)
        self.coupling = coupling_of(method.pattern, coupled, layers)
        self.layers = layers if self.coupling is None else self.coupling.layers
        self.window = schedule.window(steps_per_epoch, total_steps)
        self.levels: list[Level] | None = (
            None  # target levels, one a layer or group of coupled channels; None until decided
        )
        self._uniform_sizes: Mapping[str, int] | None = None  # extracted sizes at uniform levels, if budgeted
        self._walks: list[Walk] | None = None  # state of an allocation that searches, one a layer
        self._strengths: list[float] | None = None  # strengths of its penalty at the next step, one a layer
        self._attached = Attached(method, self.layers)
        self._weights = self._attached.weights
        self._tried: list[LayerView] = []  # views of the layers while the allocation tries schemes
        self._reordering = reordering if method.permutes else None
        self.reordered: Mapping[str, float | bool] | None = None  # report of the reordering; None until it is done
        # The state of a dense run: nothing attached, no refresh, no change.
        self.refresh_steps, self._changes = NEVER, NO_CHANGES
        if not method.dense:
            self._attach(model, steps_per_epoch, total_steps, seed, names_of(classifier), uses or {}, sample, sizes)

    def _attach(
        self,
        model: nn.Module,
        steps_per_epoch: int,
        total_steps: int,
        seed: int,
        classifier: Collection[str],
        uses: Mapping[str, int],
        sample: Sample | None,
        sizes: Callable[[Mapping[str, Tensor]], Mapping[str, int]] | None,
    ) -> None:
        """Check the method against this model and run, and put masks of ones on every layer."""
        method = self.method
        if is_extracted(method.allocation) and sizes is None:
            raise ValueError(f"budget={method.allocation.budget!r}: is counted by `sizes`; give them to the pruner")
        if method.permutes:
            if self._reordering is None:
                raise ValueError("permute=true: channels are ordered by `reordering`; give it to the pruner")
            self._reordering.check(self.layers)
        self.window = method.path.window(self.window)
        method.estimator.check_window(self.window)
        self.refresh_steps = method.update.resolve(self.window, steps_per_epoch, total_steps)
        uses_of = [uses.get(layer.name, 1) for layer in self.layers]
        norms = needed_batchnorms(model, method, self.layers, sample)
        gammas = [None if norm is None else norm.weight for norm in norms]
        if "trial" in method.needs:
            self._try_schemes(model, method.allocation, sample, seed, self._at_levels)
        self._network = Network(
            model, method, self.layers, self._weights, self._attached.masked, uses_of, classifier, seed, sample, gammas,
            self._before_measuring, self.search, sizes, self.coupling,
        )  # fmt: skip
        self._network.try_scoring()
        self._network.try_measuring()
        counted_nominally(method.allocation).check_layers(method.pattern, self._network.ranked())
        if method.allocation.refresh == "never" and not is_extracted(method.allocation):
            self.levels = method.allocation.allocate(method.pattern, self._network.ranked())
        method.path.check_levels(method.pattern, self.levels)
        self._attached.attach(self.layer_levels, norms)
        self._changes = MaskHistory(method.pattern, self.masks)

    @property
    def masks(self) -> list[Tensor]:
        """The current masks, one per layer in scope; empty when dense, or finalised."""
        return self._attached.masks

    @property
    def layer_levels(self) -> Sequence[Level] | None:
        """Target levels, one a layer; None until the allocation has decided."""
        return None if self.levels is None else self._network.layer_levels(self.levels)

    @property
    def measures(self) -> bool:
        """Tell whether scores or allocations depend on activations, gradients or losses."""
        return self.method.measures

    @torch.no_grad()
    def refresh(self, step: int) -> None:
        """Refresh the masks from the present weights, for training or an evaluation; frozen masks stay."""
        if (
            not (self.due(step) or self.refreshes_at_eval(step)) or step == self._refreshed
        ):  # a second refresh at one step would change nothing
            return
        if self.method.allocation.searches and step >= self.window.start:
            self._reorder()
            self._search(step)
        progress = self.window.progress(step)
        self.set_masks(self.masks_at(progress, step))
        self._refreshed = step
        self._attached.refreshed(progress)

    @torch.no_grad()
    def masks_at(self, progress: float, step: int) -> list[Tensor]:
        """Compute the masks that the present weights give at `progress`, without setting them.

        Levels that are still open are decided at the first call with progress above 0; with `refresh=tick`, at every
        such call. If nothing may regrow, only weights in use are kept. On a path that fades, masks hold factors.
        """
        method = self.method
        if progress == 0:
            return [torch.ones_like(mask) for mask in self.masks]
        self._reorder()
        layers = self._network.ranked(step)
        if self.levels is None or method.allocation.refresh == "tick":
            self._tried = layers
            self.levels = self._network.attainable(self._allocate(layers))
            self._tried = []
        layers = self._network.at(layers, self.levels)
        masks = self._network.spread(method.path.masks(method.pattern, layers, progress))
        if method.update.regrow == "never":
            masks = [mask * in_force for mask, in_force in zip(masks, self.masks, strict=True)]
        if share := method.update.exchanged(self.refresh_steps.elapsed(step)):
            return method.path.masks(method.pattern, self._network.exchanging(layers, masks, share), progress)
        return self._network.swapped(layers, masks) if method.update.forced_swaps else masks

    def _reorder(self) -> None:
        """Order the network's channels, if asked for and not done yet; the network computes the same function."""
        if self._reordering is not None and self.reordered is None:
            self.reordered = self._reordering.apply(self.layers)

    def _allocate(self, layers: Sequence[LayerView]) -> list[Level]:
        """The levels that the allocation decides on now."""
        allocation, pattern = self.method.allocation, self.method.pattern
        if not is_extracted(allocation):
            return allocation.allocate(pattern, layers)
        sizes = partial(self._network.sizes, layers)
        levels, self._uniform_sizes = allocate_extracted(allocation, pattern, layers, sizes)
        return levels

    @contextmanager
    def _at_levels(self, levels: Sequence[Level]) -> Iterator[None]:
        """Set the masks of a scheme, for training passes, too; the caller restores the previous masks."""
        pattern, layers = self.method.pattern, self._network.at(self._tried, levels)
        masks = [pattern.expand(pattern.mask(layer.score(), layer.level), layer.shape) * layer.mask for layer in layers]
        self._attached.set_masks(masks, levels)
        with self._attached.masked_training():
            yield

    def _search(self, step: int) -> None:
        """Let an allocation that searches decide for this step."""
        self._walks, self._strengths = self.method.allocation.search(
            self.method.pattern, self._network.views(step), self._walks, step, self.window.progress(step)
        )
        self.levels = [walk["level"] for walk in self._walks]

    def set_masks(self, masks: list[Tensor]) -> None:
        """Set masks, and the scales that belong to them, in place (the buffers stay the same tensors)."""
        self._attached.set_masks(masks, self.layer_levels)

    def trial(self) -> AbstractContextManager[None]:
        """Restore masks, and all buffers beside them, when the context ends."""
        return self._attached.trial()

    def masked_training(self) -> AbstractContextManager[None]:
        """Apply the masks in training passes, too, within the context, whatever the estimator."""
        return self._attached.masked_training()

    def before_step(self, optimizer: Optimizer, step: int | None = None, only: Collection[int] | None = None) -> None:
        """Change gradients by the rules of penalty and estimator; call after unscaling and before clipping.

        Args:
            optimizer: the optimizer that is about to step.
            step: the step that it makes, from 0; methods with a penalty need it.
            only: `id` of each parameter that this optimizer holds, if several share the network; None: all.
        """
        mine = [only is None or id(weight) in only for weight in self._weights]
        if self.method.penalty:
            views = [view for view, held in zip(self._network.views(step), mine, strict=True) if held]
            self.method.penalty.add(views, step, self.window.progress(step))
        self._attached.before_step(only)
        for i, strength in enumerate(self._strengths or []):
            if mine[i]:
                press(self._weights[i], self.masks[i], strength)
        if only is None:
            self._strengths = None

    def after_step(self, optimizer: Optimizer, only: Collection[int] | None = None) -> None:
        """Undo the optimizer's changes against the estimator's rule; call after its step, see `before_step`."""
        self._attached.after_step(optimizer, only)

    def kept(self) -> list[float]:
        """Share of each layer's weights in use under the current masks."""
        return [int(mask.sum()) / mask.numel() for mask in self.masks] or [1.0] * len(self.layers)

    def end_epoch(self) -> dict[str, float]:
        """Compare with the last call: share of weights `kept`, shares of units that changed and that came back.

        The changes of each unit are counted, for `flipflop`.
        """
        return self._changes.end_epoch(self.masks)

    def flipflop(self) -> float:
        """Share of units that changed at least twice between epoch ends."""
        return self._changes.flipflop()

    def describe(self, step: int) -> str:
        """The current state in a few words, such as '4:16' or '1:16 on 37 % of blocks'."""
        return self.method.describe(self._density(), self.window.progress(step))

    def states(self) -> list[str]:
        """Names of the states before and after each of the path's jumps, dense first."""
        jumps, density = self.method.num_jumps, self._density()
        return [self.method.describe(density, k / jumps) for k in range(jumps)] + [self.method.describe(density, 1.0)]

    def _density(self) -> float:
        """Share of all weights in scope that the target keeps."""
        kept = sum(share * w.numel() for share, w in zip(self.targets(), self._weights, strict=True))
        return kept / sum(w.numel() for w in self._weights)

    def finalise(self) -> None:
        """Fold the masks of the last evaluation into the weights and leave a plain model.

        Raises:
            ValueError: no mask was ever made: the network would stay dense.
        """
        if self._refreshed < 0 and self.masks and all(bool(mask.all()) for mask in self.masks):
            raise ValueError(
                "finalise: no mask was ever made, and the network is dense; call pruner.tick(step) before the forward "
                "pass of each step, and pruner.refresh(total_steps) before this"
            )
        self._attached.fold()

    def detach(self) -> None:
        """Give up pruning: remove the masks and leave the unmasked weights."""
        self._attached.remove()

    def verify(self) -> bool | None:
        """Tell whether the finalised weights of each layer obey the pattern at its level; None when dense."""
        if self.method.dense:
            return None
        return self.levels is not None and all(
            verify(layer.weight.detach(), self.method.pattern, level)
            for layer, level in zip(self.layers, self.layer_levels, strict=True)
        )

    def targets(self) -> list[float]:
        """Share of weights each layer is to keep at the end, counted nominally."""
        if self.levels is None:
            return [1.0] * len(self.layers)
        return [
            self.method.pattern.kept(weight.shape, level) / weight.numel()
            for weight, level in zip(self._weights, self.layer_levels, strict=True)
        ]

    def left_dense(self, model: nn.Module, classifier: str | Collection[str] | None) -> list[tuple[Layer, str]]:
        """Layers that stay dense, and why: as in `Scope.left_dense`, or `coupled`: no channel of it can be pruned."""
        left = self.method.scope.left_dense(model, classifier, self.method.pattern)
        if self.coupling is None:
            return left
        known = {layer.name for layer in self.layers} | {layer.name for layer, _ in left}
        return [*left, *((layer, "coupled") for layer in weight_layers(model) if layer.name not in known)]

    def nominal_densities(self) -> list[float]:
        """Densities as papers count them: uniform ones before rounding to whole units; others as `targets`."""
        density = self.method.nominal_density
        return self.targets() if density is None else [density] * len(self.layers)

    @property
    def prunes_filters(self) -> bool:
        """Tell whether whole filters go."""
        return self.method.prunes_filters

    def allocation_report(self, counted: Mapping[str, float] | None = None) -> dict[str, float] | None:
        """How the allocation compares with the uniform one, see `compare_with_uniform`; None when dense.

        Args:
            counted: counts of the finished network, from `midstate.compaction.count`; a budget of the extracted network
                adds `extracted_params_slack` and `extracted_macs_slack`.
        """
        if self.levels is None:
            return None
        extracted = {
            f"extracted_{kind}_slack": 1 - counted[f"{kind}_sparse"] / size
            for kind, size in (self._uniform_sizes or {}).items()
            if counted
        }
        return {**compare_with_uniform(self.method.pattern, self._network.ranked(), self.levels), **extracted}

    def scheme(self, bits: Mapping[str, list[int | None]] | None = None) -> str | None:
        """The target levels, and a quantizer's bits, as text of a file for `Scheme`; None if there are neither."""
        if self.levels is None:
            return None if bits is None else scheme_text(None, {}, bits)
        names = [layer.name for layer in self.layers]
        return scheme_text(self.method.pattern, dict(zip(names, self.layer_levels, strict=True)), bits)

    def state_dict(self) -> dict[str, Any]:
        """State beside the model's own state_dict, which holds weights and masks."""
        if self.method.dense:
            return {}
        return {
            **self._changes.state_dict(),
            "levels": self.levels,
            "refreshed": self._refreshed,
            # The refresh at an epoch's end has already searched for the next step, which will not search again.
            **({"walks": self._walks, "strengths": self._strengths} if self._walks else {}),
            **({"search": self.search.state_dict()} if self.search else {}),
            **({"uniform_sizes": dict(self._uniform_sizes)} if self._uniform_sizes else {}),
            **({"reordered": dict(self.reordered)} if self.reordered else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back `state_dict`."""
        self._changes.load_state_dict(state)
        self.levels = state.get("levels", self.levels)  # older checkpoints of uniform runs lack these two
        self._refreshed = state.get("refreshed", -1)
        self._walks, self._strengths = state.get("walks"), state.get("strengths")
        self._uniform_sizes = state.get("uniform_sizes")
        self.reordered = state.get("reordered")
        if self.search and "search" in state:
            self.search.load_state_dict(state["search"])
