"""Quantisers of inputs in a finished network: nothing is learned, all values are buffers."""

import torch
from torch import Tensor, nn

from midstate.quantization.grids.levels import nearest
from midstate.quantization.grids.uniform import positive


class FixedSteps(nn.Module):
    """Quantiser of inputs of a finished layer: multiples of a step, from low * step to high * step."""

    def __init__(self, step: float = 1.0, low: int = 0, high: int = 1) -> None:
        super().__init__()
        for name, value in (("step", float(step)), ("low", low), ("high", high)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        """Return the nearest multiple of the step."""
        step = positive(self.step.to(x.dtype))
        return (x / step).round().clamp(self.low, self.high) * step


class FixedLevels(nn.Module):
    """Quantiser of inputs of a finished layer: given values, ascending."""

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        self.register_buffer("levels", levels.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return the nearest of the values."""
        return nearest(x, self.levels.to(x.dtype))
