"""Runs on disk: which directory a configuration belongs to, and what is written there."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from midstate.common.errors import ConfigError, first_line
from midstate.common.files import write_atomically
from midstate.common.secrets import redact
from midstate.config.schema import flatten

FORMAT = 1
NAMED = 8  # settings that a message names at most
# Raise whenever losses change for an unchanged configuration: it is part of every run's identity.
NUMERICS = 1
# Fields added later, with the value that stands for how it was before them: a run with that value keeps
# the identity it had. {"trainer.field": value}
_ADDED_TO_AXES = {
    "skip_shortcuts": ("scope", False),
    "skip_linear": ("scope", False),
    "multiples": ("scope", None),
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
    content = {key: FIXED.get(key, value) for key, value in flatten(config) if _counts(key, value)}
    canonical = json.dumps({"numerics": NUMERICS, **content}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _counts(key: str, value: Any) -> bool:
    """Tell whether a setting is part of what a run is."""
    irrelevant = any(key == name or key.startswith(f"{name}.") for name in IRRELEVANT)
    return not irrelevant and not (key in NEUTRAL and NEUTRAL[key] == value)


def read_summary(directory: Path) -> dict[str, Any] | None:
    """Read summary.json; None where there is none.

    Raises:
        ConfigError: it is damaged, or written by a later version, whose fields may mean something else.
    """
    path = directory / "summary.json"
    if not path.is_file():
        return None
    with _readable(path):
        summary = json.loads(path.read_text())
        if not isinstance(summary, dict) or "status" not in summary:
            raise ValueError("it is no run's")
    if summary.get("format", FORMAT) > FORMAT:
        raise ConfigError(f"{path}: is of format {summary['format']}, and {FORMAT} is the last that is known here")
    return summary


def read_config(directory: Path) -> dict[str, Any] | None:
    """Read config.yaml; None where there is none.

    Raises:
        ConfigError: it is damaged.
    """
    path = directory / "config.yaml"
    if not path.is_file():
        return None
    with _readable(path):
        config = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(config, dict):
            raise ValueError("it is no configuration")
    return config


def is_run(config: dict[str, Any]) -> bool:
    """Tell whether a configuration is one of a run, and not of something else."""
    return all(isinstance(config.get(group), dict) for group in ("model", "data", "pruner")) and "seed" in config


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say that a file which is always written whole has been damaged since, or may not be read."""
    try:
        yield
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}); remove it, or choose another") from error


def find_file(setting: str, place: str, file: str, config: dict[str, Any]) -> Path:
    """Return the file that a setting stands for: a file, or what the finished run of the same seed has left.

    Args:
        setting: its name, for messages.
        place: a file, or the directory of an experiment's runs (outputs/NAME) or of those of one of its
            configurations: then the run of the same seed, network and data counts.
        file: within the run's directory.
        config: the resolved configuration of the run that is to use it.

    Raises:
        ValueError: there is none, or several.
    """
    path, seed = Path(place), config["seed"]
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{setting}={place!r}: no such file or directory")
    found = [
        run
        for run in [*sorted(path.glob(f"seed{seed}")), *sorted(path.glob(f"*/seed{seed}"))]
        if (read_summary(run) or {}).get("status") == "finished"
        and (run / file).is_file()
        and _same_network_and_data(read_config(run), config)
    ]
    if len(found) != 1:
        # The configuration, not the run: all seeds are then one.
        others = ", ".join(str(run.parent) for run in found)
        raise ValueError(
            f"{setting}={place!r}: holds {len(found) or 'no'} finished runs of seed {seed} with this network and data, "
            f"one is needed; {f'name one of {others}' if found else 'run that experiment first'}"
        )
    return found[0] / file


def _same_network_and_data(one: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    if one is None or not is_run(one):
        return False
    own, pair = ("checkpoint", "checkpoint_of", "pretrained"), (one, other)  # where weights come from
    models = [
        {key: value for key, value in flatten(_as_built(each)) if key not in own and _counts(f"model.{key}", value)}
        for each in pair
    ]
    data = [
        {key: FIXED.get(f"data.{key}", value) for key, value in each["data"].items() if _counts(f"data.{key}", value)}
        for each in pair
    ]
    return models[0] == models[1] and data[0] == data[1]


def _as_built(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration's network; of a narrower one the widths that were found."""
    model = config["model"]
    found = model.get("narrowed") or {}
    return {**{key: value for key, value in model.items() if key != "narrowed"}, **found}


def write_summary(directory: Path, summary: dict[str, Any]) -> None:
    """Write summary.json."""
    write_atomically(directory / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Write config.yaml: resolved, secrets replaced by the names of their variables."""
    write_atomically(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(redact(config))).encode())


def check_same_config(directory: Path, config: dict[str, Any], stored: dict[str, Any] | None = None) -> None:
    """Refuse a directory that holds a run of another configuration or seed.

    Args:
        directory: the run's.
        config: the configuration of the run that is to use it.
        stored: what it holds the run of; None: as its config.yaml says.

    Raises:
        ConfigError: names what differs.
    """
    stored = stored or read_config(directory)
    if stored is None:
        return
    if not is_run(stored):
        raise ConfigError(f"run_dir={directory}: its config.yaml is no run's; choose another directory")
    config = redact(config)
    if config_hash(stored) == config_hash(config) and stored["seed"] == config["seed"]:
        return
    old, new = dict(flatten(stored)), dict(flatten(config))
    skipped = [name for name in (*IRRELEVANT, *FIXED) if name != "seed"]
    differing = [
        f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} here"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not any(key == s or key.startswith(f"{s}.") for s in skipped)
    ]
    if len(differing) > NAMED:
        differing[NAMED:] = [f"and {len(differing) - NAMED} more"]
    raise ConfigError(
        f"run_dir={directory}: holds a run of another configuration ("
        + "; ".join(differing or ["older numerics"])
        + "); choose another, or rerun=true to replace it"
    )
