"""Which settings make two runs the same run: the hash of a configuration."""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from midstate.common.project import LOCAL
from midstate.config import local
from midstate.config.schema import flatten

# Raise whenever losses change for an unchanged configuration: it is part of every run's identity.
NUMERICS = 1
# Fields added later, with their neutral value: the behaviour before the field existed. A run with that value keeps
# its old identity. Here {field: (axis, value)}; in NEUTRAL {"trainer.field": value}.
_ADDED_TO_AXES = {
    "skip_shortcuts": ("scope", False),
    "skip_linear": ("scope", False),
    "multiples": ("scope", None),
    "include": ("scope", None),
    "granularity": ("path", "layer"),
    "steps": ("path", "single"),
    "rank": ("path", "layer"),
    "rerank": ("path", "live"),
    "staircase": ("path", False),
    "states": ("path", None),
    "regrow": ("update", "free"),
    "hysteresis": ("update", 0.0),
    "forced_swaps": ("update", 0.0),
    "vectors": ("allocation", 8),
    "slack": ("allocation", None),
    "worst": ("allocation", False),
    "draw": ("allocation", 0),
    "permute": ("pattern", False),
    "permute_seconds": ("pattern", 300),
}
NEUTRAL: dict[str, Any] = {
    key: neutral
    for name, (axis, neutral) in _ADDED_TO_AXES.items()
    for key in (f"pruner.{name}", f"pruner.{axis}.{name}")
} | {
    "trainer.probe_images": 1000,
    "trainer.recovery": False,
    "trainer.sensitivity": None,
    "trainer.sensitivity_kinds": ["share", "params", "noise"],
    "trainer.precision": "fp32",
    "trainer.channels_last": False,
    "trainer.accumulate": 1,
    "trainer.compile": False,
    "trainer.ema": None,
    "trainer.mixup": 0.0,
    "trainer.cutmix": 0.0,
    "trainer.sync_batchnorm": False,
    "trainer.num_processes": 1,
    "trainer.final_images": "test",
    "optimizer.milestones": [],
    "optimizer.factors": 0.1,
    "optimizer.every": "1it",
    "optimizer.weight_decay_1d": True,
    "model.pretrained": False,
    "model.arguments": None,  # the same as {}, which has no leaf to hash
    "data.source": "digits",
    "quantizer": None,
}
# Settings that change no result.
IRRELEVANT = (
    "seed",
    "run_dir",
    "rerun",
    "logger",
    "launcher",
    "machine",
    "trainer.checkpoint_every",
    "trainer.mode",  # `finetune` only demands initial weights, and those are hashed
    "data.workers",  # machine.workers, as data sets in files take it
    "data.prefetch",
    "data.on_error",  # a run that finishes under `fail` has no image to skip
    "model.checkpoint",  # its content counts, see Plan
    "model.narrowed",  # a result of the pruner's settings
    "pruner.like",  # the identity of that run counts, see Plan
    "pruner.narrow.like",
    "pruner.scheme",  # the content of the files counts, see Plan
    "pruner.allocation.scheme",
    "pruner.scores",
    "pruner.allocation.scores",
    *(
        f"quantizer.{axis}{name}"
        for axis in ("", "allocation.", "method.", "method.allocation.")
        for name in ("scheme", "scores", "latency")
    ),
)
# Settings that change no result but were hashed from the start: always hashed with this value, that of old results.
FIXED: dict[str, Any] = {"data.download": True}
# By class: settings that only say where the files of a published data set lie.
PLACES: dict[str, tuple[str, ...]] = {"midstate.data.MNIST": ("root",)}


def local_sources(config: dict[str, Any]) -> dict[str, str]:
    """Digests, by path, of the files in local/ behind each `_target_`; settings that change no result are left out."""
    targets = [target for key, node in config.items() if counts(key, node) for target in _targets(node)]
    files = {file for target in targets if local.has_module(target) for file in local.sources(target)}
    return {file.relative_to(LOCAL).as_posix(): _digest(file) for file in sorted(files)}


def config_hash(config: dict[str, Any]) -> str:
    """Identify what a resolved configuration computes: 12 hex digits, the same for every seed."""
    placed = {key: without_places(node) if key == "data" else node for key, node in config.items()}
    content = {key: FIXED.get(key, value) for key, value in flatten(placed) if counts(key, value)}
    canonical = json.dumps({"numerics": NUMERICS, **content}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def without_places(data: Any) -> Any:
    """The settings of a data set without those in PLACES."""
    left_out = PLACES.get(data["_target_"], ()) if isinstance(data, dict) and "_target_" in data else ()
    return {key: value for key, value in data.items() if key not in left_out} if left_out else data


@cache
def _digest(file: Path) -> str:
    """Digest of a file, cached by path: an imported module does not change within a process."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _targets(node: Any) -> Iterator[str]:
    """Every `_target_` in a tree of dicts and lists."""
    if isinstance(node, dict):
        yield from (node["_target_"],) if "_target_" in node else ()
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(value)


def counts(key: str, value: Any) -> bool:
    """Tell whether a setting is part of a run's identity."""
    irrelevant = any(key == name or key.startswith(f"{name}.") for name in IRRELEVANT)
    return not irrelevant and not (key in NEUTRAL and NEUTRAL[key] == value)
