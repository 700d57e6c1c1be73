"""Where a network's first weights come from: drawn, or taken from a checkpoint."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from midstate.runs import find_file, read_summary
from midstate.sparsity import checks


@dataclass(frozen=True)
class Recipe:
    """What every recipe of a network has; members add their settings and `create`.

    Args:
        checkpoint: weights to begin with: a file, or the directory of an experiment's runs, which stands for
            the finished run of the same seed; None: drawn from the seed.
    """

    checkpoint: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.checkpoint is not None:
            checks.text("checkpoint", self.checkpoint)


def find_checkpoint(checkpoint: str, config: dict[str, Any]) -> Path:
    """Return the file that a recipe's `checkpoint` stands for, see `runs.find_file`."""
    return find_file("checkpoint", checkpoint, "checkpoints/final.pt", config)


def checkpoint_identity(path: Path, seed: int) -> str:
    """Say which weights a file holds: the run that made them, the same on every machine, or a digest of the file."""
    summary = read_summary(path.parent.parent) if path.name == "final.pt" else None
    if summary is None:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    same_seed = summary["seed"] == seed
    return summary["config_hash"] + ("" if same_seed else f"-seed{summary['seed']}")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file's weights, `final.pt` of a run or a plain state dict, into a plain model.

    Raises:
        ValueError: the file is not readable as weights, or they do not fit the model.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged bytes lead to; code in them is refused and not run
        raise ValueError(f"checkpoint={str(path)!r}: cannot be read as weights ({_first_line(error)})") from error
    try:
        model.load_state_dict(content.get("model", content))
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"checkpoint={str(path)!r}: does not fit this model ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].startswith("Error(s)") else (lines or [type(error).__name__])[0]
