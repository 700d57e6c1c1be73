"""Mixup and CutMix through torchvision: pairs of training images mixed, and their labels with them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.common.seeds import seed_for


@dataclass(frozen=True)
class Mixing:
    """Mixup, CutMix, or at each step one of both with equal probability.

    Args:
        mixup: alpha of the Beta distribution that mixup's share is drawn from (arXiv 1710.09412); 0: none.
        cutmix: the same for CutMix (arXiv 1905.04899); 0: none.
        num_classes: labels run from 0 to num_classes - 1.
        seed: of the draws, a pure function of the step.
    """

    mixup: float
    cutmix: float
    num_classes: int
    seed: int

    @classmethod
    def of(cls, mixup: float, cutmix: float, num_classes: int, seed: int) -> "Mixing | None":
        """Return the mixing with these settings; None if both alphas are 0."""
        return cls(mixup, cutmix, num_classes, seed) if mixup or cutmix else None

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return mixed images (N, C, H, W), and shares of the classes (N, num_classes) as their labels.

        Each image is mixed with the one before it in the batch, the first with the last.
        """
        from torchvision.transforms import v2  # takes a while to import

        ways = [
            way(alpha=float(alpha), num_classes=self.num_classes)
            for way, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if alpha
        ]
        with torch.random.fork_rng(devices=[]):  # training's own generator stays as it is
            torch.default_generator.manual_seed(seed_for(self.seed, "mixing", step))  # GPUs' generators are left alone
            return v2.RandomChoice(ways)(images, labels)
