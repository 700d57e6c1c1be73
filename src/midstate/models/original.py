"""The call that makes the network of a state dict, if possible of a library's unmodified network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SAID = ("_target_", "checkpoint", "checkpoint_of", "pretrained", "narrowed")  # settings that the call leaves out


def call_of(settings: Mapping[str, Any], model: nn.Module, in_channels: int, num_classes: int) -> tuple[str, bool]:
    """The call that makes the network, and whether it is a library's own, unmodified.

    Args:
        settings: the node `model` of a run's configuration.
        model: the finished network.
        in_channels: of the images.
        num_classes: of the data.
    """
    target = settings["_target_"]
    given = dict(settings.get("arguments") or {})
    if target.endswith(".Torchvision"):
        if hasattr(model, "aux_logits"):  # its auxiliary heads were removed
            given |= {"aux_logits": False, "init_weights": False}
        code, kind = "torchvision.models.get_model", {"weights": None, "num_classes": num_classes}
    else:
        code, kind = "timm.create_model", {"in_chans": in_channels, "num_classes": num_classes}
    arguments = {**kind, **given}
    if target.endswith((".Torchvision", ".Timm")) and _loads(code, settings["name"], arguments, model.state_dict()):
        shown = "".join(f", {name}={value!r}" for name, value in arguments.items())
        return f"{code}({settings['name']!r}{shown})", True
    own = {name: value for name, value in settings.items() if name not in SAID} | (settings.get("narrowed") or {})
    shown = ", ".join(f"{name}={value!r}" for name, value in own.items())
    return f"{target}({shown}).create({in_channels}, {num_classes})", False


def _loads(code: str, name: str, arguments: dict[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict loads, strictly, into what a library makes."""
    import timm
    from torchvision import models

    make = models.get_model if code.startswith("torchvision") else timm.create_model
    try:
        with torch.device("meta"):
            make(name, **arguments).load_state_dict(state, strict=True, assign=True)
    except Exception:  # any error means another network
        return False
    return True
