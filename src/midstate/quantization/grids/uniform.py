"""Equal steps around zero."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midstate.common import checks

CLIPS = ("error", "max")
NUM_TRIED = 64  # number of clips tried, up to max |w|; the one of least squared error is taken
FEW_BITS = 4  # up to this many bits a clip is searched for, as in HAQ's code; above, it is max |w|


def symmetric_limit(bits: int) -> int:
    """Largest multiple of the step: 2^(b-1) - 1, so that the grid has 2^b - 1 values and is symmetric."""
    return 2 ** (bits - 1) - 1


def positive(step: Tensor) -> Tensor:
    """Replace a step of 0, as half precision rounds to, by the smallest positive number, so that it can divide."""
    kind = torch.finfo(step.dtype)
    return step.clamp_min(kind.tiny * kind.eps)


def multiples(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """Round x to a multiple of `step`, from low * step to high * step; ties go to the even multiple."""
    step = positive(step)
    return x.div(step).round_().clamp_(low, high).mul_(step)


@dataclass(frozen=True)
class Uniform:
    """Multiples of a step, symmetric around 0: step = T / (2^(b-1) - 1), with a clip T of the layer or of each filter.

    Args:
        per_channel: a step for each output filter; else one for the layer.
        clip: `error`: up to 4 bits T is the clip of least squared error, above 4 bits max |w|; `max`: always max |w|.
    """

    per_channel: bool = False
    clip: str = "error"
    bits: ClassVar[tuple[int, int]] = (2, 8)  # least and most
    name: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        checks.boolean("per_channel", self.per_channel)
        checks.one_of("clip", self.clip, CLIPS)

    def memory(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        """Tensors kept for a layer's weights (O, C, *K): the `step`, (1,) or (O, 1, *1)."""
        shape = (len(weight), *[1] * (weight.dim() - 1)) if self.per_channel else (1,)
        return {"step": torch.ones(shape, dtype=weight.dtype, device=weight.device)}

    def fit(self, weight: Tensor, bits: int, memory: Mapping[str, Tensor]) -> None:
        """Fit the step to the weights, masked ones being 0; where all are 0, it stays as it is."""
        rows = weight.flatten(1) if self.per_channel else weight.reshape(1, -1)
        largest = rows.abs().amax(1, keepdim=True)
        high = symmetric_limit(bits)
        clip = largest if self.clip == "max" or bits > FEW_BITS else _least_error(rows, largest, high)
        step = (clip / high).view(memory["step"].shape)
        memory["step"].copy_(torch.where(step > 0, step, memory["step"]))

    def quantise(self, weight: Tensor, bits: int, memory: Mapping[str, Tensor]) -> Tensor:
        """The nearest value of the grid, a new tensor like the weight."""
        high = symmetric_limit(bits)
        return multiples(weight, memory["step"].to(weight.dtype), -high, high)

    def values(self, bits: int, memory: Mapping[str, Tensor]) -> Tensor:
        """All values of the grid, (rows, 2^b - 1): a row for the layer, or for each filter."""
        high = symmetric_limit(bits)
        steps = memory["step"].reshape(-1, 1)
        return steps * torch.arange(-high, high + 1, dtype=steps.dtype, device=steps.device)


def _least_error(rows: Tensor, largest: Tensor, high: int) -> Tensor:
    """The clip of least squared error of each row, (R, 1)."""
    best, found = torch.full_like(largest, torch.inf), largest.clone()
    for i in range(1, NUM_TRIED + 1):
        clip = largest * (i / NUM_TRIED)
        step = (clip / high).clamp_min(torch.finfo(rows.dtype).tiny)
        error = (multiples(rows, step, -high, high) - rows).square_().sum(1, keepdim=True)
        found = torch.where(error < best, clip, found)
        best = torch.minimum(best, error)
    return found
