"""Residual networks for small images, after He et al. 2015 (arXiv 1512.03385, section 4.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstate.common import checks
from midstate.models.start import Recipe

SHORTCUTS = ("pad", "conv", "none")


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class PadShortcut(nn.Module):
    """Option A: subsample, and fill the new channels with zeros; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.missing, self.stride = out_channels - in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + missing, H / stride, W / stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, or without any; the activation follows the addition."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        if shortcut == "none":
            self.shortcut = None
        elif stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = PadShortcut(in_channels, out_channels, stride)
        else:  # option B
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out if self.shortcut is None else out + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks (each stage after the first halves the image), a linear classifier."""

    def __init__(self, blocks: list[int], widths: list[int], shortcut: str, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, channels = [], widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            layers = []
            for block in range(count):
                layers.append(BasicBlock(channels, width, 2 if stage and not block else 1, shortcut))
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        x = self.stages(F.relu(self.bn1(self.conv1(x))))
        return self.classifier(torch.mean(x, dim=(2, 3)))


@dataclass(frozen=True)
class CifarResNet(Recipe):
    """Recipe of a `ResNet`.

    Args:
        blocks: basic blocks of each stage.
        widths: channels of each stage.
        shortcut: where the shape changes: `pad` (option A, no parameters) or `conv` (option B, 1x1); `none`: no block
            has a shortcut (the plain network of the same paper).
    """

    blocks: list[int]
    widths: list[int]
    shortcut: str

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("blocks", "widths"):
            values = getattr(self, name)
            if not isinstance(values, list) or not values:
                raise ValueError(f"{name}={values!r}: must be a list of whole numbers such as [1,1,1]")
            for value in values:
                checks.integer(name, value, 1)
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"widths={self.widths}: must name as many stages as blocks={self.blocks}")
        if sorted(self.widths) != self.widths and self.shortcut == "pad":
            raise ValueError(f"widths={self.widths}: shortcut=pad can only add channels; use shortcut=conv")
        checks.one_of("shortcut", self.shortcut, SHORTCUTS)

    def create(self, in_channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights from torch's global generator."""
        return ResNet(self.blocks, self.widths, self.shortcut, in_channels, num_classes)
