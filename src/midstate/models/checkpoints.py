"""Weights from a file that any program wrote: read without running its code, and named as in a plain model."""

import argparse
import pathlib
import re
import typing
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from midstate.common.errors import first_line
from midstate.common.state_dicts import CONTAINERS, holds_tensors, masked_part, masked_weights

# Dtypes that hold plain values; objects, and records that may contain them, can point elsewhere.
_DTYPES = [getattr(np.dtypes, name) for name in np.dtypes.__all__ if name[:6] not in ("Object", "VoidDT", "String")]


def read_checkpoint(path: Path) -> Any:
    """Read the content of a file: tensors, plain values, and classes that only hold values.

    Raises:
        ValueError: the file is damaged, or holds anything else, such as code, which is not run.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files can raise any error; code in them is refused, not run
        raise ValueError(f"cannot be read as weights ({_why(path, error)})") from error


def find_weights(content: Any, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in a checkpoint, by their names in a plain model.

    Masked weights in the file are returned as its network would use them in evaluation, with their zeros, as in
    `final.pt`; the hidden values behind a mask serve only to continue the run itself.

    Args:
        content: content of the file.
        wanted: the model's own state dict: it tells which part of the names is a prefix.

    Raises:
        TypeError: the content has no single dict of tensors by name.
    """
    state = _container(content)
    return _without_prefix(_unmasked({name: value for name, value in state.items() if name != "n_averaged"}), wanted)


@cache
def _harmless() -> list[Any]:
    """Classes that programs leave in checkpoints and that only store values when they are created."""
    from omegaconf import DictConfig, ListConfig, base, nodes

    multiarray = (getattr(np, "_core", None) or np.core).multiarray  # numpy 2.0 and later, and before
    numpys = [multiarray.scalar, multiarray._reconstruct]
    configs: list[Any] = [DictConfig, ListConfig, base.Metadata, base.ContainerMetadata]
    configs += [getattr(nodes, f"{kind}Node") for kind in ("Any", "String", "Path", "Integer", "Bytes", "Float")]
    configs += [nodes.BooleanNode, (typing.Any, "typing.Any"), dict, list, int, float, str, bool, defaultdict]
    paths = [pathlib.PurePosixPath, pathlib.PureWindowsPath]
    return [
        argparse.Namespace,
        *((each, f"numpy.{core}.multiarray.{each.__name__}") for each in numpys for core in ("core", "_core")),
        *(np.dtype, np.ndarray, *_DTYPES),
        *configs,
        # As pure paths: those of another operating system cannot be created here.
        *((each, f"pathlib.{name}") for each, name in zip(paths, ("PosixPath", "WindowsPath"), strict=True)),
        *((each, f"pathlib._local.{name}") for each, name in zip(paths, ("PosixPath", "WindowsPath"), strict=True)),
        *paths,
    ]


def _why(path: Path, error: Exception) -> str:
    """Name of the refused class in a file; otherwise the reader's own message."""
    refused = []
    if "GLOBAL" in str(error):
        try:
            with safe_globals(_harmless()):
                refused = sorted(get_unsafe_globals_in_checkpoint(str(path)))
        except Exception:  # files of an older format
            refused = re.findall(r"GLOBAL (\S+)", str(error))[:1]
    if not refused:
        return first_line(error)
    return (
        f"it holds {some(refused)}, which is not made here, as that could run code; write the weights alone where "
        "they come from: torch.save(model.state_dict(), FILE)"
    )


def some(names: Iterable[str], most: int = 3) -> str:
    """Join the first `most` names, and count the others."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _container(content: Any) -> dict[str, Tensor]:
    """Find the one dict of tensors in nested dicts.

    Raises:
        TypeError: there is none, or there are several of which none has a known name.
    """
    needed = "tensors by name are needed, a state dict"
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}; {needed}")
    if odd := [name for name in content if not isinstance(name, str)]:
        raise TypeError(f"it holds {odd[0]!r} as a name; {needed}")
    nested = [name for name, value in content.items() if holds_tensors(value)]
    if not nested and any(isinstance(value, Tensor) for value in content.values()):
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}
    chosen = next((name for name in CONTAINERS if name in nested), nested[0] if len(nested) == 1 else None)
    if chosen is None:
        found = f"it holds several sets of tensors, {some(nested)}, and" if nested else "it holds"
        what = "none is called " + " or ".join(CONTAINERS[:4]) if nested else "no tensors"
        raise TypeError(f"{found} {what}; {needed}")
    return _container(content[chosen])


def _unmasked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold masks into weights, in this project's checkpoints of unfinished runs and those of torch.nn.utils.prune."""
    weights = masked_weights(state)
    folded = {weight: _folded({what: state[name] for what, name in parts.items()}) for weight, parts in weights.items()}
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        weight = (masked_part(name) or (name,))[0]
        plain[weight if weight in folded else name] = folded.get(weight, value)
    return plain


def _folded(parts: Mapping[str, Tensor]) -> Tensor:
    weight = parts["original"]
    for name in ("mask", "scale"):
        weight = weight * parts[name] if name in parts else weight
    return weight


def _without_prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the part of the common prefix of all names for which most names are then names of the model."""
    common = _common_parts(list(state))
    lengths = [0, *accumulate(len(part) + 1 for part in common)]
    met: Callable[[int], int] = lambda length: sum(name[length:] in wanted for name in state)  # noqa: E731
    best = max(lengths, key=met)
    if not met(best):
        best = lengths[-1]  # nothing fits; short names make a clearer message
    return {name[best:]: value for name, value in state.items()}


def _common_parts(names: list[str]) -> list[str]:
    """The first parts, cut at dots, that all names share; the last part of a name never counts."""
    parts = [name.split(".")[:-1] for name in names]
    shortest = min(parts, key=len, default=[])
    count = next((i for i, part in enumerate(shortest) if any(each[i] != part for each in parts)), len(shortest))
    return shortest[:count]
