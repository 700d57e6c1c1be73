"""State dicts as programs write them: under which keys they lie, and which tensors belong to a masked weight."""

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

# Keys under which programs save weights; the first present counts, so trained weights come before their average.
CONTAINERS = ("model", "state_dict", "model_state_dict", "net", "network", "weights")
CONTAINERS += ("model_ema", "state_dict_ema", "ema", "ema_state_dict")
_MASKED = re.compile(r"(?P<layer>.*)\.parametrizations\.(?P<name>[^.]+)\.(?P<what>original|\d+\.\w+)")


def holds_tensors(value: Any) -> bool:
    """True for a dict that holds named tensors at any depth."""
    return isinstance(value, dict) and any(
        isinstance(name, str) and (isinstance(each, Tensor) or holds_tensors(each)) for name, each in value.items()
    )


def masked_part(name: str) -> tuple[str, str] | None:
    """The weight that a tensor belongs to, and its part in it: `original`, `mask`, `scale`.

    Knows the names in this project's unfinished checkpoints and those of torch.nn.utils.prune; None for others.
    """
    if match := _MASKED.fullmatch(name):
        return f"{match['layer']}.{match['name']}", match["what"].rpartition(".")[2]
    if name.endswith(("_orig", "_mask")):
        return name[:-5], "original" if name.endswith("_orig") else "mask"
    return None


def masked_weights(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Every weight that is stored as an original with or without a mask: its name, and the names of its parts."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        if found := masked_part(name):
            groups.setdefault(found[0], {})[found[1]] = name
    return {weight: parts for weight, parts in groups.items() if _is_masked(parts)}


def _is_masked(parts: dict[str, str]) -> bool:
    """True if the parts are an original with a mask, or an original alone; other combinations are not known."""
    return "original" in parts and ("mask" in parts or len(parts) == 1)


def named_tensors(content: Any) -> dict[str, Tensor]:
    """The tensors in nested dicts: those under the first of `CONTAINERS`, else all but those of optimizers."""
    if not holds_tensors(content):
        return {}
    chosen = next((name for name in CONTAINERS if holds_tensors(content.get(name))), None)
    if chosen:
        return named_tensors(content[chosen])
    found = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    nested = [name for name in content if holds_tensors(content[name]) and not str(name).startswith("optim")]
    for name in nested:
        found |= {f"{name}.{below}": value for below, value in named_tensors(content[name]).items()}
    return found
