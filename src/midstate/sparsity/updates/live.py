"""Masks follow the present scores."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from midstate.common import limits
from midstate.sparsity.updates.base import Timed


@dataclass(frozen=True)
class Update(Timed):
    """Masks follow the live scores, and each evaluation refreshes them as well.

    Args:
        regrow: `free`, pruned units may come back at any refresh; `never`, only by `forced_swaps`.
        hysteresis: scores of units in use are multiplied by 1 + hysteresis, so that near ties do not flip.
        forced_swaps: share of each layer's units in use that every refresh exchanges for pruned ones, at random:
            a control, to see what flipping alone does.
    """

    regrow: str = "free"
    hysteresis: float = 0.0
    forced_swaps: float = 0.0

    def __post_init__(self) -> None:
        limits.update(vars(self))

    def adjust(self, score: Tensor, in_use: Tensor, generator: Generator | None) -> Tensor:
        """Raise the scores of units in use by the hysteresis; set pruned ones to -1 if they may not come back.

        Args:
            score: of a layer's units.
            in_use: marks the units in use, in the shape of `score`.
            generator: not used here; `DropGrow` draws the first masks from it. None where layers are compared.
        """
        if self.hysteresis:
            score = torch.where(in_use, (1 + self.hysteresis) * score, score)
        return score if self.regrow == "free" else torch.where(in_use, score, -1)

    def swap(self, in_use: Tensor, generator: Generator) -> Tensor:
        """Exchange units in use for pruned ones at random; their number is rounded stochastically."""
        flat = in_use.flatten()
        kept, pruned = flat.nonzero().flatten(), (~flat).nonzero().flatten()
        wanted = self.forced_swaps * len(kept)
        count = int(wanted + torch.rand((), generator=generator).item())
        count = min(count, len(kept), len(pruned))
        swapped = flat.clone()
        for side, now in ((kept, False), (pruned, True)):
            swapped[side[torch.randperm(len(side), generator=generator)[:count].to(side.device)]] = now
        return swapped.view(in_use.shape)
