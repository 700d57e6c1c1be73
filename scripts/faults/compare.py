"""Compare two finished runs of one configuration bit by bit; times and commit are left out."""

import csv
import json
from pathlib import Path
from typing import Any

import torch

from midstate.common.files import PARTIAL
from midstate.runs.checkpoint import checkpoints, digest

CLOCK = ("seconds", "images_per_second", "wall_seconds")
NOT_COMPARED = (*CLOCK, "mask_seconds", "git", "overrides", "choices")  # the last two name run_dir and logger
TABLES = ("metrics.csv", "probes.csv", "losses.csv")
SOMETIMES = ("scheme.json", "sensitivity.csv", "search.csv")  # files that not every run has


def differences(directory: Path, reference: Path) -> list[str]:
    """Name what differs: weights, masks, optimizer, random states, tables, summary, and half-written files."""
    ours, theirs = _content(directory), _content(reference)
    both = ours["summary.json"].keys() & theirs["summary.json"].keys()  # keys that one version adds do not count
    for content in (ours, theirs):
        content["summary.json"] = {key: value for key, value in content["summary.json"].items() if key in both}
    partial = [str(path) for path in directory.rglob(f".*{PARTIAL}")]
    return partial + [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]


def _content(directory: Path) -> dict[str, Any]:
    """Return everything that a run leaves, by name, as values that `==` compares."""
    content: dict[str, Any] = {}
    for name in TABLES:
        with (directory / name).open(newline="") as file:
            content[name] = [_without_clock(row) for row in csv.DictReader(file)]
    content["summary.json"] = _without_clock(json.loads((directory / "summary.json").read_text()))
    content |= {name: (directory / name).read_text() for name in SOMETIMES if (directory / name).exists()}
    for path in [*checkpoints(directory / "checkpoints"), directory / "checkpoints" / "final.pt"]:
        for key, value in torch.load(path, weights_only=True).items():
            if key in (*CLOCK, "digest", "config"):  # the configuration's hash, a key of its own, is compared
                continue
            value = [_without_clock(row) for row in value] if key == "rows" else value
            content[f"{path.name}: {key}"] = digest(_without_clock(value) if isinstance(value, dict) else value)
    return content


def _without_clock(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in NOT_COMPARED}
