"""Plain state dicts, as torch.save or safetensors writes them."""

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
    """A state dict as torch.save writes it; the recipe is in its `_metadata`, which load_state_dict accepts."""
    plain = OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in state.items())
    plain._metadata = OrderedDict(getattr(state, "_metadata", {}))
    plain._metadata[RECIPE] = recipe
    buffer = BytesIO()
    torch.save(plain, buffer)
    return buffer.getvalue()


def as_safetensors(tensors: State, recipe: dict[str, Any], **more: str) -> bytes:
    """The same as safetensors, the recipe as JSON in its metadata; shared memory is written once for each tensor."""
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(separate, {"format": "pt", RECIPE: json.dumps(recipe), **more})


def size_in_bytes(tensors: State) -> int:
    """Bytes of the values, without names and shapes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
