"""Find files of other runs that a setting names."""

import hashlib
from pathlib import Path
from typing import Any

from midstate.config.schema import flatten
from midstate.models.narrow import MATCHES, Narrow
from midstate.runs.files import is_run, read_config, read_summary
from midstate.runs.identity import FIXED, counts, without_places


def find_file(setting: str, place: str, file: str, config: dict[str, Any]) -> Path:
    """Return the file that a setting names, or `file` of the finished run with the same seed.

    Args:
        setting: its name, for messages.
        place: a file; or the directory of an experiment's runs (outputs/NAME) or of one configuration's runs: there,
            the finished run with the same seed, network and data is used.
        file: path within that run's directory.
        config: the resolved configuration of the run that uses the file.

    Raises:
        ValueError: there is no such file or run, or several runs.
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
        # Suggest the directory of a configuration, not of a run: it is valid for every seed.
        others = ", ".join(str(run.parent) for run in found)
        raise ValueError(
            f"{setting}={place!r}: holds {len(found) or 'no'} finished runs of seed {seed} with this network and data, "
            f"one is needed; {f'name one of {others}' if found else 'run that experiment first'}"
        )
    return found[0] / file


def _same_network_and_data(one: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    if one is None or not is_run(one):
        return False
    own, pair = ("checkpoint", "checkpoint_of", "pretrained"), (one, other)  # settings of initial weights only
    models = [
        {key: value for key, value in flatten(_as_built(each)) if key not in own and counts(f"model.{key}", value)}
        for each in pair
    ]
    data = [
        {key: FIXED.get(f"data.{key}", value) for key, value in each.items() if counts(f"data.{key}", value)}
        for each in (without_places(config["data"]) for config in pair)
    ]
    return models[0] == models[1] and data[0] == data[1]


def _as_built(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's model settings, with the widths that narrowing has found."""
    model = config["model"]
    found = model.get("narrowed") or {}
    return {**{key: value for key, value in model.items() if key != "narrowed"}, **found}


def find_checkpoint(checkpoint: str, config: dict[str, Any]) -> Path:
    """Return the file that a recipe's `checkpoint` names, see `find_file`."""
    return find_file("checkpoint", checkpoint, "checkpoints/final.pt", config)


def checkpoint_identity(path: Path, seed: int) -> str:
    """Identify the weights in a file: by the run that made them, on every machine alike, else by the file's digest."""
    summary = read_summary(path.parent.parent) if path.name == "final.pt" else None
    if summary is None:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return made_by(summary, seed)


def made_by(summary: dict[str, Any], seed: int) -> str:
    """Identify the run of a summary: its config hash, and its seed only where that differs from `seed`."""
    same_seed = summary["seed"] == seed
    return summary["config_hash"] + ("" if same_seed else f"-seed{summary['seed']}")


def find_like(narrow: Narrow, config: dict[str, Any]) -> tuple[int, str]:
    """Find the run whose size is the budget of a narrower network.

    Args:
        narrow: `like` names the run, `match` what is counted.
        config: the resolved configuration of the run with the narrower network.

    Returns:
        The found run's parameters or multiply-accumulates, and its identity, the same on every machine.

    Raises:
        ValueError: there is no such finished run, or there are several.
    """
    own = Path(narrow.like, "summary.json")
    path = own if own.is_file() else find_file("like", narrow.like, "summary.json", config)
    summary = read_summary(path.parent) if path.name == "summary.json" else None
    if summary is None or summary["status"] != "finished":
        raise ValueError(
            f"like={narrow.like!r}: holds no summary of a finished run; give a run's directory, or outputs/NAME"
        )
    if MATCHES[narrow.match] not in summary:  # an older version wrote it
        raise ValueError(f"like={narrow.like!r}: its summary has no {MATCHES[narrow.match]}; do that run again")
    return summary[MATCHES[narrow.match]], made_by(summary, config["seed"])
