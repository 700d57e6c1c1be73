"""Plain state dicts: of torch.save, and safetensors."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

RECIPE = "midstate"  # the key of the recipe in a file's metadata
State = Mapping[str, Tensor]


def as_torch(state: State, recipe: dict[str, Any]) -> bytes:
    """A state dict as torch.save writes it; the recipe is in its `_metadata`, which load_state_dict takes as it is."""
    plain = OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in state.items())
    plain._metadata = OrderedDict(getattr(state, "_metadata", {}))
    plain._metadata[RECIPE] = recipe
    buffer = BytesIO()
    torch.save(plain, buffer)
    return buffer.getvalue()


def as_safetensors(tensors: State, recipe: dict[str, Any], **more: str) -> bytes:
    """The same as safetensors: tensors that share memory are written each for itself."""
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(separate, {"format": "pt", RECIPE: json.dumps(recipe), **more})


def size_in_bytes(tensors: State) -> int:
    """What the values take, without names and sizes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
