"""Scores normalised by the sum of the larger ones in the same layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.sparsity.allocations.global_ import CHUNK, TINY, Global


@dataclass(frozen=True)
class LAMP(Global):
    """Global on LAMP scores: w^2 over the sum of all w'^2 of the layer that are not smaller (arXiv 2010.07611).

    The largest unit of every layer scores 1, so no layer can vanish. For filters, w is the filter's score.
    """

    def make_comparable(self, score: Tensor) -> None:
        """Replace the scores by LAMP scores in ascending order; which unit has which does not matter here."""
        if score.is_cuda:
            score.copy_(score.sort().values)
        else:
            score.numpy().sort()  # several times as fast as torch, and stores no indices
        left = score.square_().sum(dtype=torch.float64)  # fp64: a long sum keeps its small terms
        for chunk in score.split(CHUNK):
            downwards = chunk.cumsum(0, dtype=torch.float64)
            upwards = left - downwards + chunk
            left = left - downwards[-1]
            chunk.div_(upwards.clamp_min_(TINY))
