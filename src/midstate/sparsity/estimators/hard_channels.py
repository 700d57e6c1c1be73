"""Filters at rest, with the BatchNorm channel that reads them."""

from dataclasses import dataclass
from typing import ClassVar

from midstate.sparsity.estimators.hard import Hard


@dataclass(frozen=True)
class HardChannels(Hard):
    """As `Hard`, and with a pruned filter its bias, gamma and beta go the same way: its channel is 0, no constant."""

    whole_channels: ClassVar[bool] = True
