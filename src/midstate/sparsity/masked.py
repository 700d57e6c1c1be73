"""The parametrization that puts a mask on one tensor."""

import torch
from torch import Tensor, nn

from midstate.sparsity.estimators import Estimator


class Masked(nn.Module):
    """Parametrization of one tensor by a bool mask, and a float scale where the estimator has one.

    Both are refreshed in place, so that a compiled model sees it.
    """

    def __init__(self, weight: Tensor, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator
        self.always = False  # masks in training, too, whatever the estimator
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool, requires_grad=False))
        if estimator.scales:
            self.register_buffer("scale", torch.ones_like(weight, requires_grad=False))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that the layer uses."""
        if self.training and self.estimator.trains_dense and not self.always:
            return weight
        factor = self.mask.view(torch.uint8)  # 0 or 1; bytes become floats several times sooner than bools do
        return self.estimator.apply(weight, factor * self.scale if self.estimator.scales else factor)
