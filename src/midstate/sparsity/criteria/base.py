"""Criteria: which unit matters less. Each is a pure function from a layer's weights to a score for each unit.

Scores are 0 or more; the smallest go first. `observes` names what a criterion needs to see besides the
weights: `input_norm`, which the pruner measures on a fixed sample of training images before each refresh, or
`batchnorm`, whose BatchNorms it finds once.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern


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


def of_inputs(weight: Tensor, by_channel: Tensor) -> Tensor:
    """What each weight (O, C, *K) reads, as (O, C, 1, ...), from one value for each input channel of all groups."""
    channels = weight.shape[1]
    groups = len(by_channel) // channels  # of a grouped convolution
    by_row = by_channel.view(groups, 1, channels).expand(-1, weight.shape[0] // groups, -1)
    return by_row.reshape(weight.shape[0], channels, *[1] * (weight.dim() - 2))
