"""Read summary.json and config.yaml of a run, and write them atomically."""

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

FORMAT = 1
EXPORT = "export"  # folder that scripts/export.py writes to; EXPORTED: the files in it
EXPORTED = ("model.pt", "model.safetensors", "small.pt2", "small.safetensors", "model.onnx", "small.onnx")
EXPORTED += ("semi_structured.safetensors", "packed.safetensors")


def read_summary(directory: Path) -> dict[str, Any] | None:
    """Read summary.json; None where there is none.

    Raises:
        ConfigError: it is damaged, not readable, or of a later format, whose fields may mean something else.
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
        ConfigError: it is damaged or not readable.
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
    """Tell whether a configuration is that of a run."""
    return all(isinstance(config.get(group), dict) for group in ("model", "data", "pruner")) and "seed" in config


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors while reading a file into a ConfigError: it was damaged after it was written, or is not readable."""
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
