"""Criteria: which unit matters less. Each is a pure function from a layer's weights to a score for each unit.

Scores are 0 or more; the smallest go first. `observes` names what a criterion needs to see besides the
weights: `input_norm`, which the pruner measures on a fixed sample of training images before each refresh, or
`batchnorm`, whose BatchNorms it finds once.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from midstate.common import checks
from midstate.common.numbers import floor
from midstate.sparsity.nm import Level
from midstate.sparsity.patterns import Pattern
from midstate.sparsity.selection import keep_largest


@dataclass(frozen=True)
class Seen:
    """What a criterion may look at besides the weights of one layer."""

    generator: Generator  # the layer's own; the same draws at every refresh
    level: Level | None = None  # the layer's target level; None while it is being decided
    input_norm: Tensor | None = None  # (C,) root mean square of each input channel, where observed
    gamma: Tensor | None = None  # (O,) of the BatchNorm that reads the layer, where observed


class Criterion:
    """What every criterion has. Members add `score(weight, pattern, seen)`."""

    observes: ClassVar[str | None] = None

    def check(self, pattern: Pattern, from_scores: bool) -> None:
        """Raise ValueError if the criterion makes no sense here; `from_scores`: scores decide the allocation."""


@dataclass(frozen=True)
class L1(Criterion):
    """Magnitude: |w|, summed over a filter (Li et al., arXiv 1608.08710)."""

    def score(self, weight: Tensor, pattern: Pattern, seen: Seen) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool(weight.abs())


@dataclass(frozen=True)
class L2(Criterion):
    """Euclidean norm of a unit; for single weights the same order as L1."""

    def score(self, weight: Tensor, pattern: Pattern, seen: Seen) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool(weight.square()).sqrt()


@dataclass(frozen=True)
class Random(Criterion):
    """Drawn once from the seed: the control that any criterion must beat."""

    def score(self, weight: Tensor, pattern: Pattern, seen: Seen) -> Tensor:
        """Uniform scores of the pattern's units, the same at every refresh."""
        shape = pattern.pool(weight).shape
        return torch.rand(shape, generator=seen.generator).to(weight.device)


@dataclass(frozen=True)
class Wanda(Criterion):
    """|w| times the norm of the input channel it reads (Sun et al., arXiv 2306.11695)."""

    observes: ClassVar[str | None] = "input_norm"

    def score(self, weight: Tensor, pattern: Pattern, seen: Seen) -> Tensor:
        """Scores of the pattern's units: weight's shape, or (O,) for filters."""
        return pattern.pool(weight.abs() * of_inputs(weight, seen.input_norm))


def of_inputs(weight: Tensor, by_channel: Tensor) -> Tensor:
    """What each weight (O, C, *K) reads, as (O, C, 1, ...), from one value for each input channel of all groups."""
    channels = weight.shape[1]
    groups = len(by_channel) // channels  # of a grouped convolution
    by_row = by_channel.view(groups, 1, channels).expand(-1, weight.shape[0] // groups, -1)
    return by_row.reshape(weight.shape[0], channels, *[1] * (weight.dim() - 2))


@dataclass(frozen=True)
class GeometricMedian(Criterion):
    """Distance to all other filters: the most replaceable go first (FPGM, arXiv 1811.00250, eq. 4).

    Args:
        norm_share: of the filters that go, floor(norm_share * number) are those of smallest L2 norm; the
            rest are the nearest to all others that remain. 0: distance alone; 0.75: FPGM's mix.
    """

    norm_share: float = 0.0

    def __post_init__(self) -> None:
        checks.number("norm_share", self.norm_share, 0, 1)

    def check(self, pattern: Pattern, from_scores: bool) -> None:
        """Filters only, and the mix only where the number to prune is known beforehand."""
        if pattern.name != "filter":
            raise ValueError(
                f"criterion=geometric_median measures distances between filters; pattern={pattern.name} prunes "
                "single weights: use pruner/pattern=filter, or pruner/criterion=l1"
            )
        if self.norm_share and from_scores:
            raise ValueError(
                f"norm_share={self.norm_share}: the mix needs to know how many filters go, and this allocation "
                "decides that from the scores; use norm_share=0"
            )

    def score(self, weight: Tensor, pattern: Pattern, seen: Seen) -> Tensor:
        """Scores (O,): sums of distances; filters that go by their norm score 0."""
        filters = weight.flatten(1)
        stay = torch.ones(len(filters), dtype=torch.bool, device=weight.device)
        if self.norm_share:
            num_by_norm = floor(self.norm_share * (len(filters) - seen.level))
            stay = keep_largest(filters.norm(dim=1), len(filters) - num_by_norm, 0)
        # The plain form: the faster one by matrix product loses the digits that tell near filters apart.
        distance = torch.cdist(filters, filters[stay], compute_mode="donot_use_mm_for_euclid_dist").sum(1)
        return torch.where(stay, distance, 0)


@dataclass(frozen=True)
class BatchNormScale(Criterion):
    """|gamma| of the BatchNorm that reads a filter (Network Slimming, Liu et al., arXiv 1708.06519)."""

    observes: ClassVar[str | None] = "batchnorm"

    def check(self, pattern: Pattern, from_scores: bool) -> None:
        """Filters only: a gamma belongs to one."""
        if pattern.name != "filter":
            raise ValueError(
                f"criterion=batchnorm_scale has one score a filter, and pattern={pattern.name} prunes single weights: "
                "use pruner/pattern=filter, or pruner/criterion=l1"
            )

    def score(self, weight: Tensor, pattern: Pattern, seen: Seen) -> Tensor:
        """Scores (O,)."""
        return seen.gamma.detach().abs()
