"""Transforms from a stored image to a tensor, for evaluation and for training.

torchvision's transforms and timm are imported when a transform is built, to keep start-up quick.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from midstate.common import checks

INTERPOLATIONS = ("bilinear", "bicubic")
# timm silently ignores the parts of a policy that have no number.
POLICY = re.compile(r"rand(-(t\w+|[a-z]+\d+(\.\d+)?))*")
TORCHVISION_SCALE, TORCHVISION_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
# PCA of ImageNet's RGB values (Krizhevsky et al. 2012), as published in fb.resnet.torch; each column is a direction.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@dataclass(frozen=True)
class Preparation:
    """Preparation of all images of a set.

    Args:
        size: height and width of the images that the network reads.
        resize: length of the shorter side before evaluation crops the centre, at least `size`.
        mean: mean of each channel, for values from 0 to 1.
        std: standard deviation of each channel, likewise.
        interpolation: bilinear or bicubic.
    """

    size: int
    resize: int
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        checks.integer("size", self.size, 1)
        checks.integer("resize", self.resize, self.size)
        three("mean", self.mean, 0, 1)
        three("std", self.std, 1e-6)
        checks.one_of("interpolation", self.interpolation, INTERPOLATIONS)

    def evaluation(self) -> Callable[[Any], Tensor]:
        """Return the transform of evaluation: resize the shorter side, crop the centre, normalise."""
        from torchvision.transforms import v2

        return v2.Compose(
            [
                v2.Resize(self.resize, self._mode()),
                v2.CenterCrop(self.size),
                *self._to_tensor(),
                v2.Normalize(list(self.mean), list(self.std)),
            ]
        )

    def training(self, augmentation: "Crops") -> Callable[[Any], Tensor]:
        """Return the transform of training under torchvision's recipe."""
        from torchvision.transforms import v2

        jitter, lighting = augmentation.color_jitter, augmentation.lighting
        crop = v2.RandomResizedCrop(self.size, tuple(augmentation.scale), tuple(augmentation.ratio), self._mode())
        return v2.Compose(
            [
                crop,
                *([v2.RandomHorizontalFlip()] if augmentation.flip else []),
                *([v2.ColorJitter(jitter, jitter, jitter)] if jitter else []),
                *self._to_tensor(),
                *([Lighting(lighting)] if lighting else []),
                v2.Normalize(list(self.mean), list(self.std)),
            ]
        )

    def _mode(self) -> Any:
        from torchvision.transforms import InterpolationMode

        return InterpolationMode(self.interpolation)

    @staticmethod
    def _to_tensor() -> list[Any]:
        from torchvision.transforms import v2

        return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]


class Lighting:
    """Noise along the principal directions of RGB (AlexNet's), one draw an image, for values from 0 to 1."""

    def __init__(self, deviation: float) -> None:
        self.deviation = deviation

    def __call__(self, image: Tensor) -> Tensor:
        """Return an image (3, H, W) with the same noise at every pixel."""
        strength = self.deviation * torch.randn(3)
        shift = torch.tensor(EIGENVECTORS) @ (strength * torch.tensor(EIGENVALUES))
        return image + shift[:, None, None]


@dataclass(frozen=True)
class Crops:
    """Random crops of random size and shape, as usual for training on ImageNet.

    Args:
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest ratio of width to height.
        flip: mirror half of the images.
        color_jitter: largest relative change of brightness, contrast and saturation, each; 0: none.
        lighting: standard deviation of the noise along the principal directions of RGB; 0: none.
    """

    scale: Sequence[float] = TORCHVISION_SCALE
    ratio: Sequence[float] = TORCHVISION_RATIO
    flip: bool = True
    color_jitter: float = 0.0
    lighting: float = 0.0

    def __post_init__(self) -> None:
        rising("scale", self.scale, 1.0)
        rising("ratio", self.ratio)
        checks.boolean("flip", self.flip)
        checks.number("color_jitter", self.color_jitter, 0)
        checks.number("lighting", self.lighting, 0)

    def transform(self, preparation: Preparation) -> Callable[[Any], Tensor]:
        """Return the transform of a PIL image to a normalised tensor (3, size, size)."""
        return preparation.training(self)


@dataclass(frozen=True)
class TimmAugmentation:
    """timm's training transform.

    Args:
        auto_augment: a policy in timm's notation, such as rand-m9-mstd0.5-inc1; None: none.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest ratio of width to height.
        flip: share of the images that are mirrored.
        color_jitter: largest relative change of brightness, contrast and saturation; 0: none. timm ignores it
            if there is a policy.
        re_prob: share of the images in which rectangles are erased.
        re_mode: filling of a rectangle: const, rand (a colour) or pixel (noise).
        re_count: maximum number of rectangles an image.
    """

    auto_augment: str | None = None
    scale: Sequence[float] = TORCHVISION_SCALE
    ratio: Sequence[float] = TORCHVISION_RATIO
    flip: float = 0.5
    color_jitter: float = 0.0
    re_prob: float = 0.0
    re_mode: str = "pixel"
    re_count: int = 1

    def __post_init__(self) -> None:
        if self.auto_augment is not None:
            checks.text("auto_augment", self.auto_augment)
            if self.auto_augment.startswith("rand") and not POLICY.fullmatch(self.auto_augment):
                raise ValueError(
                    f"auto_augment={self.auto_augment!r}: must be rand and its numbers, such as rand-m9-mstd0.5-inc1"
                )
        rising("scale", self.scale, 1.0)
        rising("ratio", self.ratio)
        checks.number("flip", self.flip, 0, 1)
        checks.number("color_jitter", self.color_jitter, 0)
        checks.number("re_prob", self.re_prob, 0, 1)
        checks.one_of("re_mode", self.re_mode, ("const", "rand", "pixel"))
        checks.integer("re_count", self.re_count, 1)

    def transform(self, preparation: Preparation) -> Callable[[Any], Tensor]:
        """Return the transform of a PIL image to a normalised tensor (3, size, size).

        Raises:
            ValueError: timm does not know the policy.
        """
        from timm.data import create_transform

        try:
            return create_transform(
                preparation.size,
                is_training=True,
                auto_augment=self.auto_augment,
                scale=tuple(self.scale),
                ratio=tuple(self.ratio),
                hflip=self.flip,
                color_jitter=self.color_jitter or None,
                re_prob=self.re_prob,
                re_mode=self.re_mode,
                re_count=self.re_count,
                interpolation=preparation.interpolation,
                mean=tuple(preparation.mean),
                std=tuple(preparation.std),
            )
        except Exception as error:  # whatever timm's parser of policies raises
            raise ValueError(
                f"augmentation.auto_augment={self.auto_augment!r}: must be a policy that timm knows, such as "
                f"rand-m9-mstd0.5-inc1 ({error or type(error).__name__})"
            ) from error


def three(name: str, values: object, low: float, high: float = float("inf")) -> None:
    """Raise ValueError unless values are three numbers from low to high, one a channel."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ValueError(f"{name}={values!r}: must be three numbers, one a channel")
    for value in values:
        checks.number(name, value, low, high)


def rising(name: str, values: object, high: float = float("inf")) -> None:
    """Raise ValueError unless values are a smallest and a largest number, from 1e-6 to `high`."""
    if not isinstance(values, list | tuple) or len(values) != 2:
        raise ValueError(f"{name}={values!r}: must be the smallest and the largest, such as [0.5, 1]")
    low, top = (checks.number(name, value, 1e-6, high) for value in values)
    if low > top:
        raise ValueError(f"{name}={list(values)!r}: must be the smallest and the largest, such as [0.5, 1]")
