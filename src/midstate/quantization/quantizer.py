"""The quantizer: a method attached to a model. The only part of `quantization` that has state."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from midstate.common.times import steps_of
from midstate.quantization.allocation import Gates
from midstate.quantization.attached import BitsPair, attach, calibrate, restored
from midstate.quantization.bits import FLOAT_BITS, REFERENCE_BITS, Bits, Choice
from midstate.quantization.costs import Costs
from midstate.quantization.gates import GatedBudget
from midstate.quantization.latency import Latency
from midstate.quantization.method import Quantization
from midstate.quantization.network import Network
from midstate.quantization.report import report
from midstate.sparsity.layers import MEASURED
from midstate.sparsity.observe import Sample
from midstate.sparsity.schedules import Schedule
from midstate.sparsity.tensors import Layer, weight_layers
from midstate.sparsity.updates.base import RefreshSteps
from midstate.sparsity.walker import Walker


class Quantizer(Walker):
    """Walks a model from 32 bits to its target; the counterpart of `Pruner`; both may work on one model.

    Attach it after pretrained weights are loaded, after a pruner, and before the optimizer is made; then give it the
    optimizer (`own_groups`). Call `tick` before the forward pass of each step, `before_step` before the optimizer's
    step, `refresh` before an evaluation, and `finalise` at the end, before the pruner's `finalise`.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Quantization,
        schedule: Schedule,
        steps_per_epoch: int,
        total_steps: int,
        seed: int = 0,
        classifier: str | Collection[str] | None = None,
        uses: Mapping[str, int] | None = None,
        sample: Sample | None = None,
    ) -> None:
        """Attach quantisers to every layer in scope; no bits are in force yet.

        Args:
            model: on its device, plain or with a pruner's masks.
            method: the axes.
            schedule: curve and window, placed in the run of `total_steps`.
            steps_per_epoch: optimizer steps an epoch.
            total_steps: optimizer steps of the run.
            seed: seed of all random numbers.
            classifier: name of the classifier, or names of its layers.
            uses: multiply-accumulates of one weight on one image, by layer name; None: 1 each.
            sample: training images with labels, for quantisers of inputs and for measurements.

        Raises:
            ValueError: scope, window, budget or table do not fit this model and run.
        """
        super().__init__()
        self.method = method
        layers, fixed = method.scope.resolve(model, classifier)
        self.window = method.path.window(schedule.window(steps_per_epoch, total_steps))
        every = steps_of("every", method.every, steps_per_epoch, total_steps)
        self.refresh_steps = RefreshSteps(max(1, every), total_steps, self.window.start, self.window.stop)
        self._gates_from = method.gates_from(steps_per_epoch, total_steps)
        latency, every_layer = method.latencies(), weight_layers(model)
        self.costs = Costs.of(every_layer, uses or {}, latency)
        if latency is not None:
            _check_latency(latency, method, every_layer, layers, fixed)
        self.layers = attach(model, method, layers, fixed, sample)
        self.free = [each for each in self.layers if each.fixed_bits is None]
        self.pattern = self._pattern()
        self.levels: list[Any] | None = None  # bits of the free layers; None until decided
        if "trial" in method.allocation.needs:
            self._try_schemes(model, method.allocation, sample, seed, self._at_levels)
        self._network = Network(
            model, method, self.pattern, self.free, self.layers, self.costs, uses or {}, seed, sample, self.search,
            self._before_measuring,
        )  # fmt: skip
        self._network.try_measuring()
        if self.free:
            method.allocation.check_layers(self.pattern, self._network.views())
            if method.allocation.refresh == "never":  # depends on shapes alone: a misfit is refused here
                self.levels = method.allocation.allocate(self.pattern, self._network.views())
        elif min(self.pattern.limits.values(), default=0) < 0:
            raise ValueError(
                f"target={method.target}: all layers have fixed bits, which cost more {method.budget} than that"
            )
        self._budget: GatedBudget | None = None  # budget of learned bits; None: bits are not learned
        if isinstance(method.allocation, Gates) and self.free:
            allowed = self.pattern.limit(self._network.views(), "size")
            self._budget = GatedBudget(method.allocation, self.free, allowed, method.activation_bits)

    def _pattern(self) -> Bits:
        """The levels that the allocation chooses from, and its budget."""
        method, limits = self.method, {}
        if method.target is not None:
            fixed = [each for each in self.layers if each.fixed_bits is not None]
            own = {each.layer.name: each.attainable(method.both(each.fixed_bits)) for each in fixed}
            free = [each.layer.name for each in self.free]
            limits[method.budget] = self.costs.left_for(free, own, method.budget, method.target)
        inputs = method.activation.bits if method.quantises_inputs else Bits.input_bits
        return Bits(method.weight_bits, method.activation_bits, method.choices, method.pairs, limits, inputs)

    @property
    def measures(self) -> bool:
        """Tell whether the allocation depends on activations or losses."""
        return any(need in MEASURED for need in self.method.allocation.needs)

    @property
    def num_jumps(self) -> int:
        """Number of jumps on the path to the target; the gap of each is probed."""
        return self.method.path.num_jumps(self._least())

    @torch.no_grad()
    def refresh(self, step: int) -> None:
        """Put the bits of this step into force, and fit the grids to the present weights."""
        if step == self._refreshed:
            return
        for each in self.layers:
            each.refit()
        self.put(self.bits_at(self.window.progress(step)))
        self._refreshed = step

    @torch.no_grad()
    def bits_at(self, progress: float) -> list[BitsPair]:
        """Bits of each layer's weights and inputs at `progress`; at the first one above 0 the allocation decides."""
        if progress == 0:
            return [(None, None)] * len(self.layers)
        if self.levels is None:
            self.levels = self.method.allocation.allocate(self.pattern, self._network.views()) if self.free else []
        path, least = self.method.path, self._least()
        return [
            tuple(None if target is None else path.bits_at(target, least, progress) for target in pair)
            for pair in self.targets()
        ]

    def targets(self) -> list[BitsPair]:
        """Target bits of each layer's weights and inputs; before the allocation decides, those of the uniform one."""
        levels = self.levels or [self.pattern.target(each.hidden.shape) for each in self.free]
        given = {each.layer.name: self.pattern.both(level) for each, level in zip(self.free, levels, strict=True)}
        return [
            each.attainable(given.get(each.layer.name) or self.method.both(each.fixed_bits)) for each in self.layers
        ]

    @torch.no_grad()
    def put(self, bits: Sequence[BitsPair]) -> None:
        """Put bits into force; values are fitted anew where bits change."""
        for each, (weight, activation) in zip(self.layers, bits, strict=True):
            each.put_weight(weight)
            each.put_input(activation)
        calibrate(self._network.model, self.layers, self._network.sample)

    @contextmanager
    def _at_levels(self, levels: Sequence[Choice]) -> Iterator[None]:
        """Put the target bits of a scheme into force during the context."""
        before = self.levels
        with restored(self.layers):
            self.levels = list(levels)
            try:
                self.put(self.targets())
                yield
            finally:
                self.levels = before

    def trial(self) -> AbstractContextManager[None]:
        """Restore bits and values at the end of the context."""
        return restored(self.layers)

    def weighed(self, loss: Tensor) -> Tensor:
        """The loss to minimise: multiplied by a penalty factor while learned bits exceed their budget."""
        return self._budget.weighed(loss) if self._budget else loss

    def over_budget(self) -> str | None:
        """The exceeded budgets of learned bits, in words; None: none is exceeded, or bits are not learned."""
        return self._budget.over() if self._budget else None

    def before_step(self, optimizer: Optimizer, step: int) -> None:
        """Change gradients as the estimators say; call after unscaling and before clipping."""
        for each in self.layers:
            if each.weight.on:
                each.weight.estimator.before_step(each.hidden, each.weight.kind, each.weight.memory)
        if step < self._gates_from:
            for name, parameter in self._parameters():
                if name == "gates":
                    parameter.grad = None

    def own_groups(self, optimizer: Optimizer) -> None:
        """Move the quantisers' parameters to parameter groups of their own; of these, only clips have weight decay."""
        own = dict.fromkeys(id(parameter) for _, parameter in self._parameters())
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]
        settings = {
            "clip": {"weight_decay": self.method.activation_decay},
            "gates": {"weight_decay": 0.0, "lr_scale": getattr(self.method.allocation, "gate_lr", 1.0)},
        }
        for kind in dict.fromkeys(name for name, _ in self._parameters()):
            params = [parameter for name, parameter in self._parameters() if name == kind]
            optimizer.add_param_group({"params": params, **settings.get(kind, {"weight_decay": 0.0})})

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The quantisers' parameters, each with its name."""
        every = [each for layer in self.layers for each in layer.parts]
        return [(name, tensor) for each in every for name, tensor in each.named_parameters(recurse=False)]

    def finalise(self) -> None:
        """Leave plain quantised weights, and finished quantisers of inputs before the layers.

        Call it before the pruner's `finalise`, which folds masked weights.

        Raises:
            ValueError: no refresh was ever made, so that the network would be left as it is.
        """
        if self.layers and self._refreshed < 0:
            raise ValueError(
                "finalise: nothing was ever quantised; call quantizer.tick(step) before the forward pass of each step, "
                "and quantizer.refresh(total_steps) before this"
            )
        for each in self.layers:
            each.finish()

    def verify(self) -> bool:
        """Tell whether the weights of all finished layers obey their bits and grids, see `QuantisedLayer.obeys`."""
        return all(each.obeys() for each in self.layers)

    def report(self) -> dict[str, Any]:
        """Mean bits and costs of the finished network, see `report.report`."""
        return report(self.layers, self.costs)

    def scheme(self) -> dict[str, list[int | None]]:
        """Bits of weights and inputs of all layers without fixed bits, as `BitScheme` reads them."""
        return {each.layer.name: list(each.final_bits) for each in self.free}

    def rows(self, epoch: int) -> list[dict[str, Any]]:
        """Bits in force, a row a layer."""
        return [
            {"epoch": epoch, "layer": each.layer.name, "weight_bits": each.bits[0], "activation_bits": each.bits[1]}
            for each in self.layers
        ]

    def describe(self, step: int) -> str:
        """The current state in a few words, such as 'W4 A8'."""
        return _described([(each.bits, each.hidden.numel()) for each in self.layers])

    def states(self) -> list[str]:
        """Names of the path's states: 32 bits, then the state after each jump."""
        sizes = [each.hidden.numel() for each in self.layers]
        jumps = self.num_jumps
        return [_described(list(zip(self.bits_at(k / jumps), sizes, strict=True))) for k in range(jumps + 1)]

    def _least(self) -> int:
        """The fewest target bits of any tensor, where a path of steps ends."""
        return min(bits for pair in self.targets() for bits in pair if bits is not None)

    def state_dict(self) -> dict[str, Any]:
        """State that the model's state_dict lacks; weights and the quantisers' tensors are in the model's."""
        every = [(each.weight, each.input) for each in self.layers]
        return {
            "levels": self.levels,
            "refreshed": self._refreshed,
            **({"search": self.search.state_dict()} if self.search else {}),
            "bits": [[part and (part.kind.bits if part.on else None) for part in pair] for pair in every],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; load the model's own first."""
        self.levels, self._refreshed = state["levels"], state["refreshed"]
        if self.search and "search" in state:
            self.search.load_state_dict(state["search"])
        for each, pair in zip(self.layers, state["bits"], strict=True):
            for part, bits in zip((each.weight, each.input), pair, strict=True):
                if part is not None:
                    part.put(bits)


def _check_latency(
    latency: Latency, method: Quantization, every: Sequence[Layer], layers: Sequence[Layer], fixed: Sequence[int | None]
) -> None:
    """Refuse a table that lacks a layer, or a pair of bits that a layer may have (32 if it is not quantised)."""
    own = {method.both(bits) for bits in fixed if bits is not None}
    latency.check(layers, [*method.pairs_to_time(), *sorted(own), REFERENCE_BITS])
    names = {layer.name for layer in layers}
    others = [each for each in every if each.name not in names and each.name in latency.layers]
    latency.check(others, [(FLOAT_BITS, FLOAT_BITS), REFERENCE_BITS])


def _described(parts: Sequence[tuple[BitsPair, int]]) -> str:
    """Mean bits of weights and of inputs, such as 'W4 A8'."""
    words = []
    for letter, which in (("W", 0), ("A", 1)):
        known = [(pair[which], num) for pair, num in parts if pair[which] is not None]
        if known:
            mean = sum(bits * num for bits, num in known) / sum(num for _, num in known)
            words.append(f"{letter}{mean:.2f}".rstrip("0").rstrip("."))
    return " ".join(words) or "32 bits"
