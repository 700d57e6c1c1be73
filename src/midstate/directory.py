"""A run's directory: whose it is, whether it is finished, and making room in it."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from midstate.common.errors import ConfigError, RunFailed
from midstate.runs import check_same_config, config_hash, is_run, read_config, read_summary

TABLES = ("metrics.csv", "probes.csv", "losses.csv", "sensitivity.csv", "scheme.json")
FIGURES = tuple(f"{name}.{kind}" for name in ("accuracy", "kept_by_depth", "schedule") for kind in ("png", "svg"))


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
