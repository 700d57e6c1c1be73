"""A run's directory: whose it is, what is written there, and making room in it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from midstate.common.errors import ConfigError, RunFailed, first_line
from midstate.common.files import write_atomically
from midstate.common.secrets import redact
from midstate.config.schema import flatten
from midstate.runs.identity import FIXED, IRRELEVANT, config_hash

FORMAT = 1
NAMED = 8  # settings that a message names at most
TABLES = ("metrics.csv", "probes.csv", "losses.csv", "sensitivity.csv", "scheme.json")
FIGURES = tuple(f"{name}.{kind}" for name in ("accuracy", "kept_by_depth", "schedule") for kind in ("png", "svg"))


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


def finished_before(directory: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of a run where it is finished.

    Raises:
        ConfigError: the directory holds a run of another configuration or seed, or something damaged.
    """
    check_same_config(directory, config)
    summary = read_summary(directory)
    if not summary or summary["status"] != "finished":
        return None
    if (summary.get("config_hash"), summary.get("seed")) != (config_hash(config), config["seed"]):
        raise ConfigError(
            f"run_dir={directory}: holds the result of configuration {summary.get('config_hash')}, seed "
            f"{summary.get('seed')}; choose another, or rerun=true to replace it"
        )
    return summary


def check_own(directory: Path) -> None:
    """Raise ConfigError where a directory's config.yaml is damaged, or no run's."""
    if (config := read_config(directory)) is not None and not is_run(config):
        raise ConfigError(f"run_dir={directory}: its config.yaml is no run's; choose another directory")


def clear(directory: Path) -> None:
    """Remove what an earlier run wrote, its result first, what it belongs to last; anything else is the user's.

    Raises:
        ConfigError: its config.yaml is damaged, or no run's.
        RunFailed: something cannot be removed.
    """
    check_own(directory)
    checkpoints = directory / "checkpoints"
    try:
        _remove(
            directory / "summary.json",
            *checkpoints.glob("step-*.pt"),
            checkpoints / "final.pt",
            checkpoints / "extracted.pt2",
        )
        _remove(*(directory / "figures" / name for name in FIGURES), *(directory / name for name in TABLES))
        with suppress(FileNotFoundError):
            shutil.rmtree(directory / "wandb")
        _remove(directory / "config.yaml")
    except OSError as error:
        raise RunFailed(f"rerun=true: {error.filename} cannot be removed ({error.strerror})") from error


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
