"""Schemes: an allocation as a file that a person can read, edit and use again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from midstate.common import checks
from midstate.sparsity.allocations.base import Allocation
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern


def scheme_text(
    pattern: Pattern | None, levels: Mapping[str, Level], bits: Mapping[str, list[int | None]] | None = None
) -> str:
    """A scheme as JSON, one line a layer.

    Args:
        pattern: of the levels; None: nothing is pruned.
        levels: by layer, the number kept in each group, or a list with one number a filter.
        bits: by layer, bits of weights and of inputs; None: nothing is quantised.
    """
    listed = {name: level.tolist() if isinstance(level, Tensor) else level for name, level in levels.items()}
    parts = [
        f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in (pattern.identity if pattern else {}).items()
    ]
    parts += [_section("levels", listed)] if pattern else []
    parts += [_section("bits", bits)] if bits is not None else []
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _section(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
    return f'  "{name}": {{\n' + ",\n".join(lines) + "\n  }"


def read_scheme(path: str, section: str) -> dict[str, Any]:
    """Read a scheme.

    Args:
        path: of the file.
        section: the section that it must have: `levels`, of a pruner, or `bits`, of a quantizer.

    Raises:
        ValueError: the file cannot be read, or has no such section.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(f"scheme={path!r}: must be a file, such as the scheme.json that a run leaves")
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"scheme={path!r}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"scheme={path!r}: is not a scheme ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get(section), dict):
        more = "`pattern` and `levels`, as scheme.json of a run does"
        more = more if section == "levels" else "`bits`, as scheme.json of a run with a quantizer does"
        raise ValueError(f"scheme={path!r}: must hold {more}")
    return content


def content_digest(content: Any) -> str:
    """Identify a scheme's content, whatever its layout: 12 hex digits of SHA-256."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Scheme(Allocation):
    """The levels of a file, as `scheme_text` writes them and every run leaves them (scheme.json).

    A level of 0 empties the layer; only a file can ask for that.
    """

    scheme: str
    own_budget: ClassVar[bool] = True
    content: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        content = read_scheme(self.scheme, "levels")
        if "pattern" not in content:
            raise ValueError(f"scheme={self.scheme!r}: must hold `pattern` and `levels`, as scheme.json of a run does")
        object.__setattr__(self, "content", {key: value for key, value in content.items() if key != "bits"})

    @property
    def by_filter(self) -> bool:
        """Tell whether filters of one layer may have levels of their own."""
        return any(isinstance(level, list) for level in self.content["levels"].values())

    @property
    def made_for(self) -> dict[str, Any]:
        """Pattern for which the file was made."""
        return {key: value for key, value in self.content.items() if key != "levels"}

    def digest(self) -> str:
        """Identify the content, whatever its layout."""
        return content_digest(self.content)

    def allocate(self, pattern: Pattern, layers: Sequence[LayerView]) -> list[Level]:
        """One target level a layer.

        Raises:
            ValueError: the file names other layers than are in scope, or levels that a layer does not have.
        """
        levels, names = self.content["levels"], [layer.name for layer in layers]
        if set(levels) != set(names):
            missing, extra = sorted(set(names) - set(levels)), sorted(set(levels) - set(names))
            raise ValueError(f"scheme={self.scheme!r}: does not fit the scope; missing {missing}, not in scope {extra}")
        return [self._level(pattern, layer, levels[layer.name]) for layer in layers]

    def _level(self, pattern: Pattern, layer: LayerView, value: Any) -> Level:
        name = f"scheme level of {layer.name}"
        if not isinstance(value, list):
            return checks.integer(name, value, 0, pattern.full(layer.shape))
        if pattern.group != "neighbours" or len(value) != layer.shape[0]:
            raise ValueError(f"{name}: a list needs pattern=nm and one level for each of {layer.shape[0]} filters")
        return torch.tensor([checks.integer(name, each, 0, pattern.m) for each in value])
