"""Coupled channels: filters that are joined by sums, depthwise convolutions and the like are pruned together."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from midstate.common import limits
from midstate.common.numbers import floor
from midstate.sparsity.patterns.filter import Filter


@dataclass(frozen=True)
class Channel(Filter):
    """Channel sparsity: the unit is one channel of the network, that is all filters that belong to it.

    A group is the channels whose filters lie in the same layers. The level of a layer is a number of filters, as for
    `Filter`; the level of a group is a number of channels, see `CoupledView`.

    Args:
        sparsity: share of each group's channels that is pruned.
        combine: how the scores of a channel's filters, divided by their layer's mean, are combined: `sum`, `mean` or
            `max`.
        heads: whether attention heads are channels, too; otherwise they are not pruned.
    """

    name: ClassVar[str] = "channel"
    group: ClassVar[str] = "coupled"
    combine: str = "mean"
    heads: bool = False

    def __post_init__(self) -> None:
        limits.channel(vars(self))

    def target(self, shape: torch.Size) -> int:
        """Level of the uniform allocation: floor((1 - sparsity) * channels), as Torch-Pruning rounds; at least 1."""
        return max(1, floor((1 - self.sparsity) * shape[0]))

    @property
    def title(self) -> str:
        """The target in a few words."""
        return f"{100 * (1 - self.sparsity):g} % of channels"
