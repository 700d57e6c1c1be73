"""VGG for small images with BatchNorm and one linear layer, as Network Slimming has it (arXiv 1708.06519)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstate.common import checks
from midstate.models.start import Recipe


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each with BatchNorm; images halve between stages; a linear classifier of the mean."""

    def __init__(self, blocks: list[int], widths: list[int], gamma: float, in_channels: int, num_classes: int) -> None:
        super().__init__()
        channels = [in_channels, *(width for count, width in zip(blocks, widths, strict=True) for _ in range(count))]
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1, bias=False) for pair in pairwise(channels))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels[1:])
        self.ends = {sum(blocks[: stage + 1]) for stage in range(len(blocks) - 1)}  # convs before pooling
        self.classifier = nn.Linear(channels[-1], num_classes)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.constant_(norm.weight, gamma)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            x = F.relu(norm(conv(x)))
            x = F.max_pool2d(x, 2) if number in self.ends else x
        return self.classifier(torch.mean(x, dim=(2, 3)))


@dataclass(frozen=True)
class CifarVGG(Recipe):
    """Recipe of a `VGG`.

    Args:
        blocks: convolutions of each stage.
        widths: channels of each stage.
        gamma: initial scale of BatchNorm, above 0.
    """

    blocks: list[int]
    widths: list[int]
    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("blocks", "widths"):
            values = getattr(self, name)
            if not isinstance(values, list) or not values:
                raise ValueError(f"{name}={values!r}: must be a list of whole numbers such as [2,2,4,4,4]")
            for value in values:
                checks.integer(name, value, 1)
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"widths={self.widths}: must name as many stages as blocks={self.blocks}")
        checks.number("gamma", self.gamma, 1e-12)

    def create(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights from torch's global generator."""
        return VGG(self.blocks, self.widths, self.gamma, in_channels, num_classes)
