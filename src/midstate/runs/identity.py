"""Which settings make two runs the same run: the hash of a configuration."""

import hashlib
import json
from typing import Any

from midstate.config.schema import flatten

# Raise whenever losses change for an unchanged configuration: it is part of every run's identity.
NUMERICS = 1
# Fields added later, with the value that stands for how it was before them: a run with that value keeps
# the identity it had. {"trainer.field": value}
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
    "regrow": ("update", "free"),
    "hysteresis": ("update", 0.0),
    "forced_swaps": ("update", 0.0),
}
NEUTRAL: dict[str, Any] = {
    key: neutral
    for name, (axis, neutral) in _ADDED_TO_AXES.items()
    for key in (f"pruner.{name}", f"pruner.{axis}.{name}")
} | {
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
    "optimizer.milestones": [],
    "optimizer.factors": 0.1,
    "optimizer.every": "1it",
    "optimizer.weight_decay_1d": True,
    "model.pretrained": False,
    "model.arguments": None,  # as {}, of which nothing is left
    "data.source": "digits",
}
# What changes no result.
IRRELEVANT = (
    "seed",
    "run_dir",
    "rerun",
    "logger",
    "launcher",
    "machine",
    "trainer.checkpoint_every",
    "trainer.mode",  # it asks for weights to begin with, and those count
    "data.workers",  # of machine, as those who read files take them
    "data.prefetch",
    "data.on_error",  # where `fail` finishes, `skip` has skipped nothing
    "model.checkpoint",  # what it holds counts, see Plan
    "model.narrowed",  # what the pruner's settings have led to
    "pruner.like",  # which run counts, see Plan
    "pruner.narrow.like",
    "pruner.scheme",
    "pruner.allocation.scheme",
)
# What changes no result but has counted from the first: it counts with one value, the one that results have.
FIXED: dict[str, Any] = {"data.download": True}


def config_hash(config: dict[str, Any]) -> str:
    """Identify what a resolved configuration computes: 12 hex digits, the same for every seed."""
    content = {key: FIXED.get(key, value) for key, value in flatten(config) if counts(key, value)}
    canonical = json.dumps({"numerics": NUMERICS, **content}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def counts(key: str, value: Any) -> bool:
    """Tell whether a setting is part of what a run is."""
    irrelevant = any(key == name or key.startswith(f"{name}.") for name in IRRELEVANT)
    return not irrelevant and not (key in NEUTRAL and NEUTRAL[key] == value)
