"""Mixed levels under a hard budget, chosen exactly: one level a layer (or a filter), the least total loss.

The choice is a multiple-choice knapsack, solved by scipy.optimize.milp (HiGHS) to proven optimality; among
thousands of filters to a millionth of it, and where a layer has a hundred levels as near as so many branchings come.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import limits
from midstate.sparsity.allocations.base import Allocation, uniform_cost
from midstate.sparsity.allocations.erk import erk_densities
from midstate.sparsity.allocations.fitting import check_lowest, proportional
from midstate.sparsity.criteria.base import of_inputs
from midstate.sparsity.kernels.selection import Unrankable
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern

log = logging.getLogger(__name__)
BUDGETS = {"params": ("params",), "macs": ("macs",), "both": ("params", "macs")}
OUTLIER = 5.0  # a weight whose score is this many times its layer's mean is an outlier (OWL's M)
SCALE = 1e5  # of the largest loss in the objective: the solver's absolute gap is 1e-6
EXACT = 500  # items; of more, such as filters, the optimum is proven to a millionth: the last bit can take forever
NODES = 5000  # branchings at most: among a hundred levels a layer the last ten-thousandth could take hours
NUM_MEASURED = 8  # levels at which sensitivity is measured; between them it is interpolated


@dataclass(frozen=True)
class Budget(Allocation):
    """Levels that minimise a loss under the budget of the uniform allocation (mixed N:M, 混合N:M, under `nm`).

    Args:
        score: what a level costs in loss. `sensitivity`: rise of the training loss with this layer alone
            at the level; `weight_error`: share of the layer's squared weights that goes; or the squared
            distance, weighted by the layer's size, from a density wished for: `erk`, `owl` (more for
            layers with more outliers), `random` (the control).
        levels: levels to choose from, such as [1, 2, 4, 8]; None: all of the pattern's.
        budget: `params`, `macs` or `both`.
        per: `layer`, or `filter` (each filter has its own N; under N:M only).
        spread: `owl`: how far densities may lie from the uniform one (OWL's lambda).
    """

    score: str = "sensitivity"
    levels: tuple[int, ...] | None = None
    budget: str = "params"
    per: str = "layer"
    spread: float = 0.25
    refresh: ClassVar[str] = "once"

    def __post_init__(self) -> None:
        limits.budget(vars(self))

    @property
    def needs(self) -> tuple[str, ...]:
        """Two of the scores are measured."""
        return {"sensitivity": ("loss",), "owl": ("input_norm",)}.get(self.score, ())

    @property
    def by_filter(self) -> bool:
        """Tell whether filters of one layer may have levels of their own."""
        return self.per == "filter"

    def check_layers(self, pattern: Pattern, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if even the lowest levels exceed a budget."""
        lowest = [self._options(pattern, layer)[0] for layer in layers]
        for kind in BUDGETS[self.budget]:
            check_lowest(pattern, layers, lowest, kind)

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer; with `per=filter` a tensor (O,) each."""
        options = [self._options(pattern, layer) for layer in layers]
        pairs = list(zip(layers, options, strict=True))
        costs = [
            [[layer.cost(pattern, level, kind) for level in levels] for layer, levels in pairs]
            for kind in BUDGETS[self.budget]
        ]
        limits = [uniform_cost(pattern, layers, kind) for kind in BUDGETS[self.budget]]
        if self.per == "layer":
            chosen = solve(self._losses(pattern, layers, options), costs, limits)
            return [levels[at] for levels, at in zip(options, chosen, strict=True)]
        losses = [self._filter_losses(pattern, layer, levels) for layer, levels in pairs]
        rows = [len(loss) for loss in losses]
        # Filters of one layer share its cost row, divided by their number: no fraction is left over.
        costs = [
            [[cost // num for cost in row] for row, num in zip(kind, rows, strict=True) for _ in range(num)]
            for kind in costs
        ]
        chosen = torch.tensor(solve([row.tolist() for loss in losses for row in loss], costs, limits)).split(rows)
        return [torch.tensor(levels)[at] for levels, at in zip(options, chosen, strict=True)]

    def _options(self, pattern: Pattern, layer: LayerView) -> list[int]:
        """The levels a layer may have, lowest first."""
        return sorted(set(self.levels or pattern.choices(layer.shape)))

    def _losses(self, pattern: Pattern, layers: Sequence[LayerView], options: list[list[int]]) -> list[list[float]]:
        """Loss of every option of every layer."""
        pairs = list(zip(layers, options, strict=True))
        if self.score == "sensitivity":
            log.info(
                f"measuring how sensitive {len(layers)} layers are, each at {min(len(options[0]), NUM_MEASURED)} levels"
            )
            return [_sensitivity(pattern, layer, levels) for layer, levels in pairs]
        if self.score == "weight_error":
            return [_weight_error(pattern, layer, levels).sum(0).tolist() for layer, levels in pairs]
        wished = self._wished(pattern, layers)
        return [
            [layer.shape.numel() * (_density(pattern, layer, level) - wish) ** 2 for level in levels]
            for (layer, levels), wish in zip(pairs, wished, strict=True)
        ]

    def _filter_losses(self, pattern: Pattern, layer: LayerView, levels: list[int]) -> Tensor:
        """Loss of every option of every filter: (O, options)."""
        if self.score == "weight_error":
            return _weight_error(pattern, layer, levels)
        wish = torch.rand(layer.shape[0], 1, generator=layer.generator("allocation"))
        return layer.shape[1:].numel() * (torch.tensor(levels) / pattern.full(layer.shape) - wish) ** 2

    def _wished(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[float]:
        """The density each layer would have if levels were continuous."""
        dense = [layer.cost(pattern, pattern.full(layer.shape), "params") for layer in layers]
        limit = uniform_cost(pattern, layers, "params")
        if self.score == "owl":
            return _owl([_outliers(layer) for layer in layers], limit / sum(dense), self.spread)
        if self.score == "erk":
            raw = erk_densities(layers)
        else:
            raw = [float(torch.rand((), generator=layer.generator("allocation"))) for layer in layers]
        return proportional(raw, [0.0] * len(layers), dense, limit, "params")


def solve(
    losses: Sequence[Sequence[float]], costs: Sequence[Sequence[Sequence[int]]], limits: Sequence[int]
) -> list[int]:
    """Choose one option an item so that the losses' sum is least and no sum of costs exceeds its limit.

    A dearer option never counts as worse than a cheaper one (measured losses are noisy), and among choices
    that are equal to a hundred-thousandth of the largest loss the dearest wins; so what is left of the limits
    is never enough for one more level of anything.

    Args:
        losses: one row an item, one loss an option, options from cheap to dear.
        costs: for each limit, rows as in `losses`; whole numbers.
        limits: one or more.

    Returns:
        The chosen option of each item: an optimum, or the best of `NODES` branchings.

    Raises:
        ValueError: no choice meets the limits.
        Unrankable: a loss is not finite.
    """
    import numpy as np
    from scipy.optimize import LinearConstraint, milp
    from scipy.sparse import csr_array

    if not all(math.isfinite(loss) for row in losses for loss in row):
        raise Unrankable("measured losses are not finite numbers: they cannot be ranked")
    flat = np.concatenate([np.minimum.accumulate(np.asarray(row, dtype=float)) for row in losses])
    item = np.repeat(np.arange(len(losses)), [len(row) for row in losses])
    one_each = csr_array((np.ones(len(flat)), (item, np.arange(len(flat)))))
    constraints = [LinearConstraint(one_each, 1, 1)]
    objective = SCALE * flat / (np.abs(flat).max() or 1.0)
    flat_costs = [np.concatenate(rows) for rows in costs]
    for cost, limit in zip(flat_costs, limits, strict=True):
        objective -= SCALE * 1e-5 * cost / max(1, limit)
        unit = np.gcd.reduce(cost) or 1  # small whole numbers: the solver's tolerance is absolute
        constraints.append(LinearConstraint((cost // unit)[None], ub=limit // unit))
    gap = 0 if len(losses) <= EXACT else 1e-6
    options = {"mip_rel_gap": gap, "node_limit": NODES}
    found = milp(objective, integrality=1, bounds=(0, 1), constraints=constraints, options=options)
    if found.status == 2:
        raise ValueError("allocation: no choice of levels meets the budget")
    assert found.x is not None, found.message
    if not found.success:  # a limit of nodes, not of time: the same choice on every machine
        log.info(f"the solver's choice is within {100 * found.mip_gap:.2g} % of the best")
    chosen = np.flatnonzero(found.x > 0.5)
    for cost, limit in zip(flat_costs, limits, strict=True):
        assert cost[chosen].sum() <= limit, "the solver exceeded the budget"
    starts = np.concatenate([[0], np.cumsum([len(row) for row in losses])[:-1]])
    return (chosen - starts).tolist()


def _density(pattern: Pattern, layer: LayerView, level: int) -> float:
    return pattern.kept(layer.shape, level) / layer.shape.numel()


def _sensitivity(pattern: Pattern, layer: LayerView, levels: list[int]) -> list[float]:
    """Rise of the loss over the dense layer's, measured at a few levels and interpolated between them."""
    import numpy as np

    full = pattern.full(layer.shape)
    measured = sorted({levels[round(i)] for i in np.linspace(0, len(levels) - 1, min(len(levels), NUM_MEASURED))})
    dense = layer.loss(full)
    rises = [layer.loss(level) - dense if level != full else 0.0 for level in measured]
    return np.interp(levels, measured, rises).tolist()


def _weight_error(pattern: Pattern, layer: LayerView, levels: list[int]) -> Tensor:
    """Share of the layer's squared weights that each level takes away, by filter: (O, options)."""
    squares, score = layer.weight.double().square(), layer.score()
    gone = [
        squares.where(~pattern.expand(pattern.mask(score, level), layer.shape), 0).flatten(1).sum(1) for level in levels
    ]
    return (torch.stack(gone, 1) / squares.sum().clamp_min(1e-300)).cpu()


def _outliers(layer: LayerView) -> float:
    """Share of weights whose |w| * input norm exceeds OUTLIER times the layer's mean."""
    score = layer.weight.abs() * of_inputs(layer.weight, layer.input_norm)
    return float((score > OUTLIER * score.mean()).float().mean())


def _owl(outliers: list[float], density: float, spread: float) -> list[float]:
    """Densities within `spread` of the uniform one, in proportion to the share of outliers (OWL, arXiv 2310.05175)."""
    low, high = min(outliers), max(outliers)
    scaled = [(each - low) / (high - low) * 2 * spread if high > low else 0.0 for each in outliers]
    mean = sum(scaled) / len(scaled)
    return [min(1.0, max(0.0, each - mean + density)) for each in scaled]
