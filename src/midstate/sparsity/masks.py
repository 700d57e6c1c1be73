"""The parametrization that puts a mask on one tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from midstate.sparsity.estimators.base import Estimator


class Masked(nn.Module):
    """Parametrization of one tensor by a bool mask, and by what the estimator keeps beside it.

    Both are refreshed in place, so that a compiled model sees it.
    """

    def __init__(self, weight: Tensor, estimator: Estimator, memory: Mapping[str, Tensor] | None = None) -> None:
        """Begin with a mask of ones.

        Args:
            weight: the tensor, (O, C) or (O, C, *K).
            estimator: says what the layer uses.
            memory: from `Estimator.memory`; None: nothing.
        """
        super().__init__()
        self.estimator = estimator
        self.always = False  # masks in training, too, whatever the estimator
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool, requires_grad=False))
        self._names = tuple(memory or {})
        for name in self._names:
            if isinstance(memory[name], nn.Parameter):
                self.register_parameter(name, memory[name])
            else:
                self.register_buffer(name, memory[name])

    @property
    def memory(self) -> dict[str, Tensor]:
        """Tensors that the estimator keeps, by name."""
        return {name: getattr(self, name) for name in self._names}

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that the layer uses."""
        if self.training and self.estimator.trains_dense and not self.always:
            return weight
        # 0 or 1; bytes become floats several times sooner than bools do, but torch.jit.trace cannot record such a view.
        factor = self.mask.to(weight.dtype) if torch.jit.is_tracing() else self.mask.view(torch.uint8)
        factor = factor * self.scale if "scale" in self._names else factor
        return self.estimator.apply(weight, factor, self.memory)
