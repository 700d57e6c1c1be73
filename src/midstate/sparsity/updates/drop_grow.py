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
    """Scores by which the pattern keeps what is not dropped, and fills up with what is to grow.

    Of the units in use floor(share * number) are dropped, those of smallest score in the whole layer. Growth is ranked
    among all that were not kept, so that a dropped unit may come back at once.

    Args:
        in_use: marks units; as the scores, (O, C) or (O, C, *K).
        score: 0 or more where in use.
        growth: 0 or more.
        share: 0..1.

    Returns:
        Infinity for what stays, `growth` for all else.
    """
    num_in_use = int(in_use.count_nonzero())
    num_stay = num_in_use - floor(share * num_in_use)
    stay = keep_largest(torch.where(in_use, score, -1).flatten(), num_stay, 0).view(in_use.shape)
    return growth.masked_fill(stay, torch.inf)


@dataclass(frozen=True)
class DropGrow(Timed):
    """Drop the weights in use that matter least, and grow as many others; evaluations refresh nothing.

    RigL (Evci et al., arXiv 1911.11134) grows where the gradient is largest, SET (Mocanu et al., arXiv 1707.04780) at
    random. Ties and everything drawn are functions of the seed, the layer and the step. Within rows and N:M the drop is
    ranked over the layer, and each row or group grows as many as it lost.

    Args:
        drop_fraction: share of each layer's units in use that the first exchange takes; it falls as half a cosine to 0
            at `until`.
        grow: `gradient`, the largest of the last step; `random`.
        initial: masks of a layer that was dense until now: `random`, or by the method's `criterion`.
    """

    drop_fraction: float = 0.3
    grow: str = "gradient"
    initial: str = "random"
    live: ClassVar[bool] = False
    regrow: ClassVar[str] = "never"  # but by the exchange, which comes after
    forced_swaps: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        limits.drop_grow(vars(self))

    def adjust(self, score: Tensor, in_use: Tensor, generator: Generator | None) -> Tensor:
        """Scores as the masks in force let them count: nothing pruned comes back, the first masks may be drawn."""
        if generator is not None and self.initial == "random" and in_use.all():
            refuse_nan(score)
            return torch.rand(score.shape, generator=generator).to(score)
        return torch.where(in_use, score, -1)

    def refreshed(self, weight: Tensor, mask: Tensor) -> None:
        """Zero what is pruned, so that it comes back as zero."""
        weight.detach().mul_(mask)

    def exchanged(self, elapsed: float) -> float:
        """Share of each layer's units in use that a refresh exchanges: half a cosine of the time up to `until`."""
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * elapsed))

    @property
    def needs(self) -> tuple[str, ...]:
        """Growth by the gradient looks at the last step's."""
        return ("step_gradient",) if self.grow == "gradient" else ()

    def growth(self, layer: LayerView) -> Tensor:
        """Growth score of each weight, 0 or more; random growth is a function of the step."""
        if self.grow == "gradient":
            return layer.step_gradient
        return torch.rand(layer.shape, generator=layer.generator("growth", layer.step)).to(layer.weight.device)
