"""Coupled channels: filters that sums, depthwise convolutions and the like join go together."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from midstate.common import limits
from midstate.common.numbers import floor
from midstate.sparsity.patterns.filter import Filter


@dataclass(frozen=True)
class Channel(Filter):
    """Channel sparsity: unit one channel of the network, that is all filters without which it is gone.

    Group: the channels that the same layers have filters of. A level of a layer is a number of filters, as for
    `Filter`; of a group it is a number of channels, see `CoupledView`.

    Args:
        sparsity: share of each group's channels that goes.
        combine: how the scores of a channel's filters, over their layer's mean, become one: `sum`, `mean` or `max`.
        heads: whether heads of attention are channels, too; else they stay.
    """

    name: ClassVar[str] = "channel"
    group: ClassVar[str] = "coupled"
    combine: str = "mean"
    heads: bool = False

    def __post_init__(self) -> None:
        limits.channel(vars(self))

    def target(self, shape: torch.Size) -> int:
        """Level of the uniform allocation: floor((1 - sparsity) * channels) stay, as Torch-Pruning rounds."""
        return max(1, floor((1 - self.sparsity) * shape[0]))

    @property
    def title(self) -> str:
        """The target in a few words."""
        return f"{100 * (1 - self.sparsity):g} % of channels"
