"""What every recipe of a network has: first weights, drawn or from a checkpoint, and a trial pass."""

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from midstate.common import checks
from midstate.common.errors import first_line

NESTED = ("model", "state_dict", "model_ema", "state_dict_ema")  # where programs put the weights
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and averaging; of torch.compile


@dataclass(frozen=True)
class Recipe:
    """What every recipe of a network has; members add their settings and `create`.

    Args:
        checkpoint: weights to begin with: a file, or the directory of an experiment's runs, which stands for
            the finished run of the same seed; None: drawn from the seed.
    """

    checkpoint: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.checkpoint is not None:
            checks.text("checkpoint", self.checkpoint)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file's weights into a plain model: of `final.pt`, a plain state dict, or another program's checkpoint.

    Of what holds more, the first of NESTED counts; all names may begin with PREFIXES.

    Raises:
        ValueError: the file is not readable as weights, they do not fit the model, or are not finite.
    """
    try:
        content = _read(path)
    except Exception as error:  # whatever damaged bytes lead to; code in them is refused and not run
        raise ValueError(f"checkpoint={str(path)!r}: cannot be read as weights ({_first_line(error)})") from error
    try:
        model.load_state_dict(_plain(content))
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"checkpoint={str(path)!r}: does not fit this model ({_first_line(error)})") from error
    if infinite := [name for name, value in model.state_dict().items() if not value.isfinite().all()]:
        raise ValueError(f"checkpoint={str(path)!r}: {infinite[0]} is not finite; training from it would diverge")


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":  # timm's
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _plain(content: Any) -> dict[str, Any]:
    """The state dict in a checkpoint, without what DataParallel, compile and averaging have added to its names.

    Raises:
        TypeError: there is none.
    """
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}; tensors by name are needed, a state dict")
    state = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), content)
    if odd := [name for name in state if not isinstance(name, str)]:
        raise TypeError(f"it holds {odd[0]!r} as a name; tensors by name are needed, a state dict")
    state = {name: value for name, value in state.items() if name != "n_averaged"}
    while prefix := next((each for each in PREFIXES if state and all(name.startswith(each) for name in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s)") else (lines or [type(error).__name__])[0]
    return shorten(line, 300, placeholder=" ...")  # all the names of a network are no message


@torch.no_grad()
def try_training(model: nn.Module, images: Tensor, num_classes: int) -> None:
    """Make one forward pass in training mode; model and generators are left as they were.

    Args:
        model: in training mode.
        images: a batch (N, C, H, W); of one image BatchNorm may have nothing to measure.
        num_classes: of the data.

    Raises:
        ValueError: the model does not take the images, or gives anything but logits (N, num_classes).
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # BatchNorm writes to the copies
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            logits = functional_call(model, buffers, (images,))
        except Exception as error:  # what other libraries raise where images do not fit
            raise ValueError(f"{type(error).__name__}: {first_line(error)}") from error
    expected = (len(images), num_classes)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"in training the model gives {found}, where logits {expected} are needed")
