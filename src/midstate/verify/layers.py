"""Which tensors of a file are weights of layers, and under which name."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.common.state_dicts import masked_weights

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # name parts that wrappers add


# Forms in which a weight is stored as several tensors, none of which is judged alone: names of these parts.
FORMS = {
    "packed": ("bitmask", "shape", "compressed", "row_offsets"),
    "semi_structured": ("values", "metadata"),
}


@dataclass(frozen=True)
class Stored:
    """A tensor of a file that may be a weight.

    Args:
        name: name of the weight, without the parts that wrappers add.
        parts: names of the tensors in the file that make the weight.
        form: `plain`: the weight is the product of the parts, an original and its mask, if any; or a key of FORMS.
    """

    name: str
    parts: tuple[str, ...]
    form: str = "plain"


def stored(names: Iterable[str]) -> tuple[list[Stored], list[str]]:
    """List the tensors that may be weights, and names of masks without a known original, which are not applied."""
    names = list(names)
    masked = masked_weights(names)
    owner = {part: weight for weight, parts in masked.items() for part in parts.values()}
    found, masks = {each.name: each for each in _in_other_forms(names)}, []
    taken = {part for each in found.values() for part in each.parts}
    for name in names:
        if name in taken:
            continue
        weight = owner.get(name)
        if weight in masked:
            parts = [masked[weight][what] for what in ("original", "mask") if what in masked[weight]]
            found[weight] = Stored(_short(weight), tuple(parts))
        elif name.rpartition(".")[2].endswith("mask"):
            masks.append(name)
        else:
            found[name] = Stored(_short(name), (name,))
    return list(found.values()), masks


def _in_other_forms(names: list[str]) -> list[Stored]:
    known, found = set(names), []
    for form, parts in FORMS.items():
        for name in names:
            weight = name.removesuffix(f".{parts[0]}")
            whole = tuple(f"{weight}.{part}" for part in parts)
            if weight != name and known.issuperset(whole):
                found.append(Stored(_short(weight), whole, form))
    return found


def is_weight(tensor: Tensor, name: str) -> bool:
    """Tell whether a tensor can be a layer's weight: floating, complex or int8, with two or more dimensions.

    If it is not called a weight, dim 0 and another dim must exceed 1: (1, ...) are positions, tokens and scales.
    """
    numbers = tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.int8
    wide = tensor.dim() > 1 and tensor.numel() > 0
    called = "weight" in name.rpartition(".")[2]
    return numbers and wide and (called or (tensor.shape[0] > 1 and sum(size > 1 for size in tensor.shape) > 1))


def _short(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS) or name
