"""The parametrization that puts a mask on one tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from midstate.sparsity.estimators.base import Estimator


class Masked(nn.Module):
    """Parametrization of one tensor by a bool mask and the estimator's memory.

    Both are refreshed in place, so that a compiled model sees the new values.
    """

    def __init__(self, weight: Tensor, estimator: Estimator, memory: Mapping[str, Tensor] | None = None) -> None:
        """Begin with a mask of ones.

        Args:
            weight: the tensor, (O, C) or (O, C, *K).
            estimator: computes the weight that the layer uses.
            memory: tensors from `Estimator.memory`; None: no tensors.
        """
        super().__init__()
        self.estimator = estimator
        self.always = False  # whether training passes are masked, whatever the estimator
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
        # 0 or 1; bytes convert to floats several times faster than bools, but torch.jit.trace cannot record the view.
        factor = self.mask.to(weight.dtype) if torch.jit.is_tracing() else self.mask.view(torch.uint8)
        factor = factor * self.scale if "scale" in self._names else factor
        return self.estimator.apply(weight, factor, self.memory)
