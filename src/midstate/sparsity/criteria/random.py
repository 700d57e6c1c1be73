"""Random scores, the control."""

from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.sparsity.criteria.base import Criterion
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class Random(Criterion):
    """Drawn once from the seed: the control that any criterion must beat."""

    def score(self, layer: LayerView, pattern: Pattern) -> Tensor:
        """Uniform scores of the pattern's units, the same at every refresh."""
        shape = pattern.pool(layer.weight).shape
        return torch.rand(shape, generator=layer.generator("criterion")).to(layer.weight.device)
