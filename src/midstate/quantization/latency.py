"""Latency of each layer at each number of bits, from a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstate.common import checks
from midstate.sparsity.allocations.scheme import content_digest
from midstate.sparsity.tensors import Layer


@dataclass(frozen=True)
class Latency:
    """Latency of each layer in whole microseconds, by its name and its bits of weights and inputs.

    The file is JSON: {"unit": "us", "layers": {"layer1.0.conv1": {"shape": [16, 16, 3, 3], "us": {"8,8": 120,
    "4,8": 70, ...}}}}; `scripts/latency.py` writes one. "32,32" is needed for layers that are not quantised.
    """

    path: str
    layers: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, path: str) -> "Latency":
        """Read a file.

        Raises:
            ValueError: the file cannot be read, or is no table of latencies.
        """
        checks.text("latency", path)
        try:
            content = json.loads(Path(path).read_text())
        except OSError as error:
            raise ValueError(f"latency={path!r}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ValueError(f"latency={path!r}: is no table of latencies ({error})") from error
        layers = content.get("layers") if isinstance(content, dict) else None
        if not isinstance(layers, dict) or content.get("unit") != "us":
            raise ValueError(
                f'latency={path!r}: must hold `unit`: "us" and `layers`, as scripts/latency.py writes them'
            )
        for name, layer in layers.items():
            if not isinstance(layer, dict) or "shape" not in layer or not isinstance(layer.get("us"), dict):
                raise ValueError(f"latency={path!r}: {name} must have `shape` and `us`")
            for pair, time in layer["us"].items():
                checks.integer(f"latency={path!r}: {name} at bits {pair}", time, 1)
        return cls(path, layers)

    def check(self, layers: list[Layer], pairs: list[tuple[int, int]]) -> None:
        """Refuse a table of another network, or without some pairs of bits.

        Raises:
            ValueError: a layer is missing, has another shape, or no latency at a pair of bits.
        """
        for layer in layers:
            found = self.layers.get(layer.name)
            if found is None:
                raise ValueError(f"latency={self.path!r}: is of another network: it has no {layer.name}")
            if list(layer.weight.shape) != found["shape"]:
                raise ValueError(
                    f"latency={self.path!r}: is of another network: {layer.name} is {found['shape']} there, "
                    f"{list(layer.weight.shape)} here"
                )
            if missing := [pair for pair in dict.fromkeys(f"{w},{a}" for w, a in pairs) if pair not in found["us"]]:
                raise ValueError(f"latency={self.path!r}: {layer.name} has no latency at bits {', '.join(missing[:4])}")

    def digest(self) -> str:
        """Return a digest of shapes and latencies; layout and other entries, such as the machine, do not count."""
        return content_digest({name: [layer["shape"], layer["us"]] for name, layer in self.layers.items()})

    def of(self, name: str, weight: int, activation: int) -> int:
        """Microseconds of a layer at its bits of weights and inputs."""
        return self.layers[name]["us"][f"{weight},{activation}"]
