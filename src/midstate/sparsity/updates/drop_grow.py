"""Drop and grow: the number of weights stays, and at every tick a share of them changes place (RigL, SET)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from midstate.common import limits
from midstate.common.numbers import floor
from midstate.sparsity.kernels.selection import keep_largest, refuse_nan
from midstate.sparsity.layers import LayerView
from midstate.sparsity.updates.base import Timed


def exchange_scores(in_use: Tensor, score: Tensor, growth: Tensor, share: float) -> Tensor:
    """Scores by which the pattern keeps the units that are not dropped, and then those of largest growth.

    Of the units in use floor(share * number) are dropped, those of smallest score in the whole layer. Growth is ranked
    among all other units, the dropped ones too, so that a dropped unit may come back at once.

    Args:
        in_use: marks the units in use; like the scores, (O, C) or (O, C, *K).
        score: 0 or more where in use.
        growth: 0 or more.
        share: 0..1.

    Returns:
        Infinity for the units that stay, `growth` for all others.
    """
    num_in_use = int(in_use.count_nonzero())
    num_stay = num_in_use - floor(share * num_in_use)
    stay = keep_largest(torch.where(in_use, score, -1).flatten(), num_stay, 0).view(in_use.shape)
    return growth.masked_fill(stay, torch.inf)


@dataclass(frozen=True)
class DropGrow(Timed):
    """Drop the weights in use that matter least, and grow as many others; evaluations alone refresh no mask.

    RigL (Evci et al., arXiv 1911.11134) grows where the gradient is largest, SET (Mocanu et al., arXiv 1707.04780) at
    random. All draws are functions of the seed, the layer and the step; ties go to the lower index. Under rows and N:M
    the drop is ranked over the layer, and each row or group grows as many as it lost.

    Args:
        drop_fraction: share of each layer's units in use that an exchange drops, at the window's start; it falls as
            half a cosine to 0 at `until`.
        grow: `gradient`, where that of the last step is largest; `random`.
        initial: masks of a layer that was dense until now: `random`, or by the method's `criterion`.
    """

    drop_fraction: float = 0.3
    grow: str = "gradient"
    initial: str = "random"
    live: ClassVar[bool] = False
    regrow: ClassVar[str] = "never"  # except by the exchange, which comes afterwards
    forced_swaps: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        limits.drop_grow(vars(self))

    def adjust(self, score: Tensor, in_use: Tensor, generator: Generator | None) -> Tensor:
        """Set the scores of pruned units to -1; a layer that was dense has random scores if `initial=random`."""
        if generator is not None and self.initial == "random" and in_use.all():
            refuse_nan(score)
            return torch.rand(score.shape, generator=generator).to(score)
        return torch.where(in_use, score, -1)

    def refreshed(self, weight: Tensor, mask: Tensor) -> None:
        """Zero the pruned weights, so that they regrow from zero."""
        weight.detach().mul_(mask)

    def exchanged(self, elapsed: float) -> float:
        """Share of each layer's units in use that a refresh exchanges: half a cosine over the time up to `until`."""
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * elapsed))

    @property
    def needs(self) -> tuple[str, ...]:
        """`step_gradient` where growth is by the gradient."""
        return ("step_gradient",) if self.grow == "gradient" else ()

    def growth(self, layer: LayerView) -> Tensor:
        """Growth score of each weight, 0 or more; random growth is a function of the step."""
        if self.grow == "gradient":
            return layer.step_gradient
        return torch.rand(layer.shape, generator=layer.generator("growth", layer.step)).to(layer.weight.device)
