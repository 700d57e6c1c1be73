"""One network under one quantisation method: views of the layers whose bits the allocation chooses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from midstate.quantization.attached import QuantisedLayer, calibrate, restored
from midstate.quantization.bits import Bits, Choice
from midstate.quantization.costs import Costs
from midstate.quantization.method import Quantization
from midstate.sparsity import observe
from midstate.sparsity.layers import MEASURED, LayerView
from midstate.sparsity.network import MEASURED_BY_LAYER
from midstate.sparsity.observe import Sample
from midstate.sparsity.search import Search
from midstate.sparsity.tensors import shape_of


@dataclass(frozen=True)
class Network:
    """Holds no state of its own: weights and bits are the quantizer's."""

    model: nn.Module
    method: Quantization
    pattern: Bits
    free: Sequence[QuantisedLayer]  # layers whose bits the allocation chooses
    layers: Sequence[QuantisedLayer]  # all quantised layers, also those with fixed bits
    costs: Costs
    macs: Mapping[str, int]
    seed: int
    sample: Sample | None
    search: Search | None = None  # None unless the allocation tries schemes
    before_measuring: list[Callable[[], None]] = field(default_factory=list)  # called before each loss is measured

    def try_measuring(self) -> None:
        """Raise ValueError if what the allocation measures cannot be measured here, before training begins."""
        needs = [name for name in self.method.allocation.needs if name in MEASURED]
        observe.try_measuring("quantizer", needs, self.sample, self._measure)

    def views(self) -> list[LayerView]:
        """Views of the free layers as they are now; all views of one call share their measurements."""
        needs = self.method.allocation.needs
        shared = {name: cache(lambda name=name: self._measure(name)) for name in needs if name in MEASURED_BY_LAYER}
        return [
            LayerView(
                parameter=each.hidden,
                name=each.layer.name,
                index=i,
                macs=self.macs.get(each.layer.name, 1),
                is_first=each.layer.depth == 0,
                **shape_of(each.layer),
                seed=self.seed,
                cost_of=self._cost,
                error_of=self._error,
                loss_of=self._loss if "loss" in needs else None,
                search=self.search,
                measure={name: lambda i=i, every=every: every()[i] for name, every in shared.items()},
            )
            for i, each in enumerate(self.free)
        ]

    def _measure(self, name: str, sample: Sample | None = None) -> Sequence[Tensor]:
        """Measure one tensor a layer, on the given sample or on the network's own."""
        layers = [each.layer for each in self.free]
        vectors = getattr(self.method.allocation, "vectors", observe.NUM_VECTORS)
        return observe.measured(name, self.model, layers, sample or self.sample, self.seed, vectors)

    def _cost(self, layer: LayerView, level: Choice, budget: str) -> int:
        return self.costs.cost(layer.name, *self.free[layer.index].attainable(self.pattern.both(level)), budget)

    @torch.no_grad()
    def _error(self, layer: LayerView, level: Choice) -> float:
        """Squared error of a layer's weights at a level, as a share of their squares."""
        each = self.free[layer.index]
        with restored([each]):
            each.put_weight(None)
            each.put_weight(self.pattern.both(level)[0])
            return float(_squares(each.weight(each.used) - each.used) / _squares(each.used).clamp_min(1e-300))

    @torch.no_grad()
    def _loss(self, layer: LayerView, level: Choice) -> float:
        """Loss on the sample with one layer at a level and every other layer as it is."""
        for call in self.before_measuring:
            call()
        each = self.free[layer.index]
        with restored([each]):
            weight, activation = self.pattern.both(level)
            each.put_weight(weight)
            each.put_input(activation)
            calibrate(self.model, [each], self.sample)
            return observe.mean_loss(self.model, self.sample)


def _squares(x: Tensor) -> Tensor:
    return x.double().square().sum()
