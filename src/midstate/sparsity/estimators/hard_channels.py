"""Pruned filters are frozen, together with the BatchNorm channel that reads them."""

from dataclasses import dataclass
from typing import ClassVar

from midstate.sparsity.estimators.hard import Hard


@dataclass(frozen=True)
class HardChannels(Hard):
    """As `Hard`; a pruned filter's bias, gamma and beta are masked, too, so that its channel is 0, not a constant."""

    whole_channels: ClassVar[bool] = True
