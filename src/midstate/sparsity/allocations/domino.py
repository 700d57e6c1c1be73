"""DominoSearch (Sun et al., NeurIPS 2021): mixed N:M found while training, by weights that fall below thresholds.

Every layer walks down from M. A penalty pulls its weights towards zero; it is stronger the further the layer's density
is above ERK's and the more multiply-accumulates the layer costs. Where most groups have fewer than N weights above
their thresholds, N goes down by one; only the N's among `levels` are put in force. The search ends when the network
costs no more than the uniform one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from midstate.common import checks, limits
from midstate.common.numbers import floor
from midstate.sparsity.allocations.base import Allocation, check_budget, limit
from midstate.sparsity.allocations.erk import erk_densities
from midstate.sparsity.allocations.fitting import check_lowest, proportional
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import GROUP_DIM, NM, Level, filled_groups

log = logging.getLogger(__name__)
MOST_DOUBLINGS = 6
# State of one layer: `thresholds` (O, groups, *K), `walked`, the N it has come down to, and `level`, the N in force.
Walk = dict[str, Any]


@dataclass(frozen=True)
class Domino(Allocation):
    """Levels found by a search that training itself does.

    Args:
        budget: `params` or `macs`: the cost that must come down to the uniform allocation's.
        levels: N's that are put in force, besides M; None: powers of two.
        ready: share of a layer's groups that must have fewer than N weights above their threshold.
        decide_every: steps between decisions; each lowers the N of a layer by one at most.
        press_every: steps between penalties.
        strength: of the penalty; strength * factor * w is added to the gradients of weights in use, factor from 0 to 1.
        double_from: progress of the schedule, 0..1, from which the strength is doubled.
        double_every: progress between further doublings; MOST_DOUBLINGS in all at most.
        erk_share: share of the factor that depends on the distance from ERK's density; the rest depends on
            multiply-accumulates.
    """

    budget: str = "params"
    levels: tuple[int, ...] | None = None
    ready: float = 0.75
    decide_every: int = 100
    press_every: int = 5
    strength: float = 0.1
    double_from: float = 0.3
    double_every: float = 0.1
    erk_share: float = 0.5
    refresh: ClassVar[str] = "once"
    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        limits.counted(vars(self))
        limits.levels(self.levels)
        for name in ("ready", "double_from", "erk_share"):
            checks.number(name, getattr(self, name), 0, 1)
        for name in ("decide_every", "press_every"):
            checks.integer(name, getattr(self, name), 1)
        checks.number("strength", self.strength, 0)
        checks.number("double_every", self.double_every, 1e-3, 1)

    def check_layers(self, pattern: NM, layers: Sequence[LayerView]) -> None:
        """Raise ValueError if even the lowest levels exceed the budget, or if the pattern has no such budget."""
        check_budget(pattern, self.budget)
        check_lowest(pattern, layers, [self._levels(pattern)[0]] * len(layers), self.budget)

    def allocate(self, pattern: NM, layers: Sequence[LayerView]) -> list[Level]:
        """State at the start of the search: every layer dense."""
        return [pattern.m] * len(layers)

    def search(
        self, pattern: NM, layers: Sequence[LayerView], walks: Sequence[Walk] | None, step: int, progress: float
    ) -> tuple[list[Walk], list[float] | None]:
        """Advance the search by one step of training.

        Args:
            pattern: N:M; its uniform allocation is the budget.
            layers: with the present weights.
            walks: state after the last step; None: the search begins.
            step: of the run.
            progress: of the schedule; at 1 the search is over.

        Returns:
            The walks, and the strength of this step's penalty on each layer; None: no penalty.
        """
        if walks is None:
            walks = self.begin(pattern, layers)
        elif (step % self.decide_every == 0 or progress == 1) and not self.met(pattern, layers, walks):
            walks = self.advance(pattern, layers, walks, progress)
            if self.met(pattern, layers, walks) and progress < 1:
                log.info(f"the search has met its budget at step {step}, {100 * progress:.0f} % of its window")
        if step % self.press_every or self.met(pattern, layers, walks):
            return walks, None
        return walks, self.strengths(pattern, layers, walks, progress)

    def begin(self, pattern: NM, layers: Sequence[LayerView]) -> list[Walk]:
        """One walk a layer, at M; a group's threshold is the mean of the smaller half of its present |w|."""
        half = max(1, pattern.m // 2)
        ascending = [filled_groups(layer.weight.abs(), pattern.m).sort(GROUP_DIM).values for layer in layers]
        smaller = [each.narrow(GROUP_DIM, 0, half) for each in ascending]
        return [{"thresholds": each.mean(GROUP_DIM), "walked": pattern.m, "level": pattern.m} for each in smaller]

    def advance(self, pattern: NM, layers: Sequence[LayerView], walks: Sequence[Walk], progress: float) -> list[Walk]:
        """One decision: each layer that is ready comes down by one, the readiest first, until the budget is met.

        Args:
            pattern: N:M; its uniform allocation is the budget.
            layers: with the present weights.
            walks: so far.
            progress: of the schedule. At 1 the search is over: the layers nearest to a lower level are forced down
                until the budget is met.

        Returns:
            The walks afterwards.
        """
        walks = [dict(walk) for walk in walks]
        allowed = limit(pattern, layers, self.budget)
        shares = [_share_below(pattern, layer, walk) for layer, walk in zip(layers, walks, strict=True)]
        for i in sorted(range(len(layers)), key=lambda i: -shares[i]):
            if shares[i] >= self.ready and self._cost_of(pattern, layers, walks) > allowed and walks[i]["walked"] > 1:
                walks[i]["walked"] -= 1
                if walks[i]["walked"] in self._levels(pattern):
                    walks[i]["level"] = walks[i]["walked"]
        forced = 0
        while progress == 1 and self._cost_of(pattern, layers, walks) > allowed:
            self._force(pattern, walks, shares)
            forced += 1
        if forced:
            log.warning(
                f"warning: the search did not meet its budget within the schedule's window; {forced} steps down were "
                "forced; a longer run, a larger pruner.strength or a smaller pruner.decide_every may help"
            )
        return walks

    def met(self, pattern: NM, layers: Sequence[LayerView], walks: Sequence[Walk]) -> bool:
        """Tell whether the budget is met, which ends the search."""
        return self._cost_of(pattern, layers, walks) <= limit(pattern, layers, self.budget)

    def strengths(
        self, pattern: NM, layers: Sequence[LayerView], walks: Sequence[Walk], progress: float
    ) -> list[float]:
        """Strength of the penalty on each layer."""
        doublings = 0
        if progress >= self.double_from:
            doublings = min(MOST_DOUBLINGS, 1 + floor((progress - self.double_from) / self.double_every))
        dense = [layer.cost(pattern, pattern.m, "params") for layer in layers]
        wished = proportional(
            erk_densities(layers), [0.0] * len(layers), dense, limit(pattern, layers, "params"), "params"
        )
        residual = [max(0.0, walk["level"] / pattern.m - wish) for walk, wish in zip(walks, wished, strict=True)]
        macs = [layer.cost(pattern, walk["level"], "macs") for layer, walk in zip(layers, walks, strict=True)]
        return [
            self.strength * 2**doublings * (self.erk_share * far + (1 - self.erk_share) * cost)
            for far, cost in zip(_of_largest(residual), _of_largest(macs), strict=True)
        ]

    def _levels(self, pattern: NM) -> list[int]:
        """N's that may be put in force, the lowest first."""
        if self.levels is not None:
            return sorted({*self.levels, pattern.m})
        return sorted({2**k for k in range(pattern.m.bit_length()) if 2**k < pattern.m} | {pattern.m})

    def _cost_of(self, pattern: NM, layers: Sequence[LayerView], walks: Sequence[Walk]) -> int:
        return sum(layer.cost(pattern, walk["level"], self.budget) for layer, walk in zip(layers, walks, strict=True))

    def _force(self, pattern: NM, walks: list[Walk], shares: Sequence[float]) -> None:
        """Bring down the layer that has the smallest share to go to its next level.

        Among equals the layer at the highest level goes first, so that none reaches the lowest level while others have
        not moved; then the readiest.
        """
        allowed = self._levels(pattern)
        nearest = min(
            (i for i, walk in enumerate(walks) if walk["level"] > allowed[0]),
            key=lambda i: (walks[i]["walked"] / _next(allowed, walks[i]["level"]), -walks[i]["level"], -shares[i]),
        )
        level = _next(allowed, walks[nearest]["level"])
        walks[nearest].update(level=level, walked=level)


def press(weight: Tensor, mask: Tensor, strength: float) -> None:
    """Add the penalty's gradient, strength * w, to the gradient of the weights in use."""
    if weight.grad is not None and strength:
        weight.grad.add_(weight.detach() * mask.view(torch.uint8), alpha=strength)


def _next(levels: Sequence[int], level: int) -> int:
    return max(each for each in levels if each < level)


def _share_below(pattern: NM, layer: LayerView, walk: Walk) -> float:
    """Share of groups with fewer weights above their threshold than the N that the layer has walked to."""
    above = (filled_groups(layer.weight.abs(), pattern.m) > walk["thresholds"].unsqueeze(GROUP_DIM)).sum(GROUP_DIM)
    return float((above < walk["walked"]).float().mean())


def _of_largest(values: Sequence[float]) -> list[float]:
    largest = max(values)
    return [value / largest if largest else 0.0 for value in values]
