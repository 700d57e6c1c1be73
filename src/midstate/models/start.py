"""Base of all network recipes, and a trial forward pass."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from midstate.common import checks
from midstate.common.errors import first_line


@dataclass(frozen=True)
class Recipe:
    """Base of all network recipes; members add settings and `create`.

    Args:
        checkpoint: weights to begin with: a file, or the directory of an experiment's runs, which stands for
            the finished run of the same seed; None: drawn from the seed.
    """

    checkpoint: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.checkpoint is not None:
            checks.text("checkpoint", self.checkpoint)


@torch.no_grad()
def try_training(model: nn.Module, images: Tensor, num_classes: int) -> None:
    """Make one forward pass in training mode; model and generators are left as they were.

    Args:
        model: in training mode.
        images: a batch (N, C, H, W); BatchNorm may refuse a single image.
        num_classes: of the data.

    Raises:
        ValueError: the model does not take the images, or gives anything but logits (N, num_classes).
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # BatchNorm writes to the copies
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            logits = functional_call(model, buffers, (images,))
        except Exception as error:  # other libraries can raise any error if images do not fit
            raise ValueError(f"{type(error).__name__}: {first_line(error)}") from error
    expected = (len(images), num_classes)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"in training the model gives {found}, where logits {expected} are needed")
