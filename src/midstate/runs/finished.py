"""Read a finished run: its summary, its configuration, its network, its data."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from midstate.common.errors import ConfigError, user_errors
from midstate.config.building import build
from midstate.data import Images
from midstate.models import load_weights
from midstate.runs.files import is_run, read_config, read_summary


def read_finished(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and configuration of a finished run.

    Raises:
        ConfigError: the directory holds no finished run; the message names runs below it.
    """
    summary, config = read_summary(directory), read_config(directory)
    if summary is None or config is None or not is_run(config):
        seeds = sorted(path.parent for path in directory.glob("**/seed*/summary.json"))
        hint = f"; runs below it: {', '.join(map(str, seeds[:3]))}{' ...' if len(seeds) > 3 else ''}" if seeds else ""
        what = "is no finished run's" if directory.is_dir() else "no such directory"
        raise ConfigError(f"{directory}: {what}{hint}")
    if summary["status"] != "finished":
        raise ConfigError(f"{directory}: this run is not finished ({summary['status']}); finish it first")
    return summary, config


def set_threads(directory: Path, config: dict[str, Any]) -> None:
    """Compute with as many threads as the run did: last bits depend on them."""
    with user_errors(
        f"{directory}: its config.yaml: trainer.threads", LookupError, TypeError, ValueError, RuntimeError
    ):
        torch.set_num_threads(config["trainer"]["threads"])


def rebuild(directory: Path, config: dict[str, Any]) -> tuple[nn.Module, Images]:
    """Rebuild the finished network in evaluation mode, with zeros and input quantisers in place, and load its data.

    Raises:
        ConfigError: final.pt is missing, or a part of the configuration cannot be built here.
    """
    file = directory / "checkpoints" / "final.pt"
    if not file.is_file():
        raise ConfigError(f"{file}: is not there; rerun=true makes it anew")
    model = {key: value for key, value in config["model"].items() if key not in ("checkpoint_of", "narrowed")}
    narrowed = config["model"].get("narrowed") or {}  # written by the run, not set by the user
    if not set(narrowed) <= {"widths"}:
        raise ConfigError(f"{directory}: its network was narrowed to {narrowed}, which cannot be built from a file")
    composed = OmegaConf.create({**config, "model": {**model, **narrowed}})
    recipe, source = build(composed, "model"), build(composed, "data")
    with user_errors("data"):
        data = source.load()
    with user_errors(str(directory), Exception):  # other libraries raise many kinds for bad arguments
        model = recipe.create(data.shape[0], data.num_classes)
        load_weights(model, file, fresh_classifier=False)
    return model.eval(), data
