"""Mixed levels under a hard budget, chosen exactly: one level a layer (or a filter), the least total loss."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from midstate.common import limits
from midstate.common.numbers import EPSILON
from midstate.sparsity.allocations.base import COMBINED, Allocation, budgets_of, check_budget, limit, options_of
from midstate.sparsity.allocations.erk import erk_densities
from midstate.sparsity.allocations.fitting import check_lowest, proportional
from midstate.sparsity.allocations.knapsack import monotone, solve
from midstate.sparsity.allocations.scores import Scores
from midstate.sparsity.criteria.base import of_inputs
from midstate.sparsity.layers import LayerView
from midstate.sparsity.observe import NUM_VECTORS
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern

log = logging.getLogger(__name__)
OUTLIER = 5.0  # a weight whose score is this many times its layer's mean is an outlier (OWL's M)
NUM_MEASURED = 8  # levels at which sensitivity is measured; between them it is interpolated


@dataclass(frozen=True)
class Budget(Allocation):
    """Levels that minimise a loss under the budget of the uniform allocation (mixed N:M, 混合N:M, under `nm`).

    Args:
        score: how the loss of a level is estimated. `sensitivity`: rise of the training loss with this layer alone
            at the level; where a level is a pair, bits of weights and of activations, each of the two is measured
            with the other at the full level, and the rises are added. `file`: the same from a table of a finished
            network, on validation images (`scores`). `hessian`: squared error of the layer's
            weights times the mean eigenvalue of their Hessian (HAWQ-V2, arXiv 1911.03852). `weight_error`: share of
            the layer's squared weights that is removed. `erk`, `owl` (denser layers where there are more outliers) and
            `random` (the control): squared distance from a desired density, times the layer's size.
        levels: levels to choose from, such as [1, 2, 4, 8]; those above a layer's full level are replaced by it. None:
            all of the pattern's.
        budget: `params`, `macs` or `both`; of a quantizer `size`, `bitops` or `latency`.
        per: `layer`, or `filter` (each filter has its own N; under N:M only).
        spread: `owl`: half the range of the densities, from the lowest to the highest (OWL's lambda).
        vectors: `hessian`: random vectors for each batch of images, by which the trace is estimated.
        scores: `file`: the table, as scripts/sensitivity.py writes it.
        slack: largest share of each budget that may stay unused; None: any.
        worst: choose the largest total loss instead, within the budget and its slack (the control).
        draw: `random`: number of the random scheme, 0 or more; each is another one for the same seed.
    """

    score: str = "sensitivity"
    levels: tuple[int, ...] | None = None
    budget: str = "params"
    per: str = "layer"
    spread: float = 0.25
    vectors: int = NUM_VECTORS
    scores: str | None = None
    table: Scores | None = field(default=None, init=False, repr=False, compare=False)
    slack: float | None = None
    worst: bool = False
    draw: int = 0
    refresh: ClassVar[str] = "once"
    pairs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        limits.budget(vars(self))
        if self.scores is not None:
            object.__setattr__(self, "table", Scores.read(self.scores))

    @property
    def needs(self) -> tuple[str, ...]:
        """The measurement that `score` reads, if any."""
        return {"sensitivity": ("loss",), "hessian": ("hessian_trace",), "owl": ("input_norm",)}.get(self.score, ())

    @property
    def by_filter(self) -> bool:
        """Tell whether filters of one layer may have levels of their own."""
        return self.per == "filter"

    def check_layers(self, pattern: Pattern, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if even the cheapest levels exceed a budget, or if the pattern has no such budget."""
        check_budget(pattern, self.budget)
        options = [options_of(pattern, layer, self.levels) for layer in layers]
        for kind in self._kinds:
            costs = [partial(layer.cost, pattern, budget=kind) for layer in layers]
            cheapest = [min(levels, key=cost) for levels, cost in zip(options, costs, strict=True)]
            check_lowest(pattern, layers, cheapest, kind)
        if self.table:
            self._losses(pattern, layers, options)
        if self.slack is not None and self.per == "layer":  # single filters can meet all that layers can
            self._solve([[0.0] * len(levels) for levels in options], *self._costs(pattern, layers, options))

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer; with `per=filter` a tensor (O,) each."""
        options = [options_of(pattern, layer, self.levels) for layer in layers]
        costs, limits = self._costs(pattern, layers, options)
        if self.per == "layer":
            losses = zip(self._losses(pattern, layers, options), options, strict=True)
            chosen = self._solve([monotone(loss, levels) for loss, levels in losses], costs, limits)
            return [levels[at] for levels, at in zip(options, chosen, strict=True)]
        losses = [self._filter_losses(pattern, layer, levels) for layer, levels in zip(layers, options, strict=True)]
        rows = [len(loss) for loss in losses]
        # A filter costs its layer's cost divided by the number of filters, which leaves no remainder.
        costs = [
            [[cost // num for cost in row] for row, num in zip(kind, rows, strict=True) for _ in range(num)]
            for kind in costs
        ]
        flat = [monotone(row.tolist(), levels) for loss, levels in zip(losses, options, strict=True) for row in loss]
        chosen = torch.tensor(self._solve(flat, costs, limits)).split(rows)
        return [torch.tensor(levels)[at] for levels, at in zip(options, chosen, strict=True)]

    @property
    def _kinds(self) -> tuple[str, ...]:
        """Budgets that must all be met."""
        return COMBINED.get(self.budget, (self.budget,))

    def _costs(
        self, pattern: Pattern, layers: Sequence[LayerView], options: list[list[Level]]
    ) -> tuple[list[list[list[int]]], list[int]]:
        """Cost of every option of every layer, and the limit, in each of the budgets."""
        pairs = list(zip(layers, options, strict=True))
        costs = [
            [[layer.cost(pattern, level, kind) for level in each] for layer, each in pairs] for kind in self._kinds
        ]
        return costs, [limit(pattern, layers, kind) for kind in self._kinds]

    def _solve(
        self, losses: Sequence[Sequence[float]], costs: Sequence[Sequence[Sequence[int]]], limits: Sequence[int]
    ) -> list[int]:
        """Choose one option an item, see `solve`."""
        if self.worst:
            losses = [[-loss for loss in row] for row in losses]
        floors = None if self.slack is None else [math.ceil((1 - self.slack) * each - EPSILON) for each in limits]
        return solve(losses, costs, limits, floors)

    def _losses(self, pattern: Pattern, layers: Sequence[LayerView], options: list[list[Level]]) -> list[list[float]]:
        """Loss of every option of every layer."""
        pairs = list(zip(layers, options, strict=True))
        if self.score == "sensitivity":
            each = " of each number" if isinstance(options[0][0], tuple) else ""
            log.info(f"measuring how sensitive {len(layers)} layers are, at {NUM_MEASURED} levels{each} at most")
            return [_sensitivity(pattern, layer, levels) for layer, levels in pairs]
        if self.table:
            return [self.table.losses(pattern, layer, levels) for layer, levels in pairs]
        if self.score == "weight_error":
            return [_errors(pattern, layer, levels) for layer, levels in pairs]
        if self.score == "hessian":
            log.info(f"measuring the Hessian's trace of {len(layers)} layers, {self.vectors} vectors a batch")
            return [_by_hessian(pattern, layer, levels) for layer, levels in pairs]
        wished = self._wished(pattern, layers)
        return [
            [layer.shape.numel() * (_density(pattern, layer, level) - wish) ** 2 for level in levels]
            for (layer, levels), wish in zip(pairs, wished, strict=True)
        ]

    def _filter_losses(self, pattern: Pattern, layer: LayerView, levels: list[int]) -> Tensor:
        """Loss of every option of every filter: (O, options)."""
        if self.score == "weight_error":
            return layer.filter_errors(pattern, levels)
        wish = torch.rand(layer.shape[0], 1, generator=self._generator(layer))
        return layer.shape[1:].numel() * (torch.tensor(levels) / pattern.full(layer.shape) - wish) ** 2

    def _wished(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[float]:
        """The desired density of each layer, before it is rounded to a level."""
        kind = budgets_of(pattern)[0]
        dense = [layer.cost(pattern, pattern.full(layer.shape), kind) for layer in layers]
        allowed = limit(pattern, layers, kind)
        if self.score == "owl":
            return _owl([_outliers(layer) for layer in layers], allowed / sum(dense), self.spread)
        if self.score == "erk":
            raw = erk_densities(layers)
        else:
            raw = [float(torch.rand((), generator=self._generator(layer))) for layer in layers]
        return proportional(raw, [0.0] * len(layers), dense, allowed, kind)

    def _generator(self, layer: LayerView) -> Generator:
        """Generator of a layer's random densities; `draw` is part of its seed unless it is 0."""
        return layer.generator("allocation", *([self.draw] if self.draw else []))


def _density(pattern: Pattern, layer: LayerView, level: Level) -> float:
    """Cost of a level as a share of the dense layer's cost."""
    kind = budgets_of(pattern)[0]
    return layer.cost(pattern, level, kind) / layer.cost(pattern, pattern.full(layer.shape), kind)


def _sensitivity(pattern: Pattern, layer: LayerView, levels: list[Level]) -> list[float]:
    """Rise of the loss over that with the layer dense; for pairs, the sum of the rises by each number alone."""
    full = pattern.full(layer.shape)
    dense = layer.loss(full)
    if not isinstance(full, tuple):
        return _rises(layer, levels, full, dense, lambda value: value)
    by_component = [
        dict(zip(values, _rises(layer, values, full[k], dense, partial(_with, full, k)), strict=True))
        for k, values in enumerate(sorted({level[k] for level in levels}) for k in range(len(full)))
    ]
    return [sum(rises[value] for rises, value in zip(by_component, level, strict=True)) for level in levels]


def _rises(
    layer: LayerView, values: list[int], full: int, dense: float, level_of: Callable[[int], Level]
) -> list[float]:
    """Rise of the loss over `dense` at values in ascending order, measured at a few and interpolated between them."""
    import numpy as np

    measured = sorted({values[round(i)] for i in np.linspace(0, len(values) - 1, min(len(values), NUM_MEASURED))})
    rises = [layer.loss(level_of(value)) - dense if value != full else 0.0 for value in measured]
    return np.interp(values, measured, rises).tolist()


def _with(full: tuple[int, ...], k: int, value: int) -> tuple[int, ...]:
    return (*full[:k], value, *full[k + 1 :])


def _errors(pattern: Pattern, layer: LayerView, levels: list[Level]) -> list[float]:
    """Share of the layer's squared weights that each level takes away."""
    if layer.error_of is not None:
        return [layer.error(pattern, level) for level in levels]
    return layer.filter_errors(pattern, levels).sum(0).tolist()


def _by_hessian(pattern: Pattern, layer: LayerView, levels: list[Level]) -> list[float]:
    """Squared error at each level times the mean eigenvalue; a negative estimate of that counts as 0."""
    mean = max(0.0, layer.hessian_trace / layer.shape.numel()) if math.isfinite(layer.hessian_trace) else math.nan
    squares = float(layer.weight.double().square().sum())
    return [mean * squares * error for error in _errors(pattern, layer, levels)]


def _outliers(layer: LayerView) -> float:
    """Share of weights whose |w| * input norm exceeds OUTLIER times the layer's mean."""
    score = layer.weight.abs() * of_inputs(layer.weight, layer.input_norm)
    return float((score > OUTLIER * score.mean()).float().mean())


def _owl(outliers: list[float], density: float, spread: float) -> list[float]:
    """Densities of mean `density` and range 2 * `spread`, rising with outliers, cut to 0..1 (OWL, arXiv 2310.05175)."""
    low, high = min(outliers), max(outliers)
    scaled = [(each - low) / (high - low) * 2 * spread if high > low else 0.0 for each in outliers]
    mean = sum(scaled) / len(scaled)
    return [min(1.0, max(0.0, each - mean + density)) for each in scaled]
