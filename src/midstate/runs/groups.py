"""Finished runs: found below some directories, and grouped by configuration or by settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstate.common.checks import near
from midstate.common.errors import ConfigError
from midstate.runs.files import is_run, read_config, read_summary
from midstate.runs.labels import FinishedRun, labels


@dataclass(frozen=True)
class Group:
    """Runs that are one row of the table and one curve."""

    label: str
    runs: list[FinishedRun]

    def values(self, measure: str) -> list[float]:
        """A measure of every run that has it."""
        found = [run.summary.get(measure) for run in self.runs]
        return [value for value in found if value is not None]

    @property
    def num_configurations(self) -> int:
        """Number of configurations in the group; with 1, its runs differ only in their seeds."""
        return len({run.summary["config_hash"] for run in self.runs})


def find_runs(places: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """Return the finished runs below some directories, each once, and a note (path, reason) on every other run."""
    runs: dict[tuple[str, int], FinishedRun] = {}
    left_out = []
    for path in dict.fromkeys(path for place in places for path in _directories(place)):
        try:
            config, summary = read_config(path), read_summary(path)
        except ConfigError as error:
            left_out.append(f"{path} (damaged: {error})")
            continue
        if config is None or not is_run(config):
            continue
        if (status := (summary or {}).get("status", "begun")) != "finished":
            left_out.append(f"{path} ({status})")
            continue
        own = FinishedRun(path, config, summary)
        first = runs.setdefault((summary["config_hash"], summary["seed"]), own)
        if first is not own:
            left_out.append(f"{path} (the same run as {first.path})")
    return list(runs.values()), left_out


def group(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> list[Group]:
    """Group runs by configuration or, with `by`, by their values of those settings.

    Raises:
        ConfigError: a setting that no run has.
    """
    known = sorted({key for run in runs for key in (*run.settings, *run.typed, *run.summary.get("choices", {}))})
    for key in by:
        if all(run.value(key) is None and key not in run.settings for run in runs):
            raise ConfigError(f"--by {key}: no run has such a setting{near(key, known)}")
    found: dict[Any, list[FinishedRun]] = {}
    for run in runs:
        key = repr([run.value(name) for name in by]) if by else run.summary["config_hash"]
        found.setdefault(key, []).append(run)
    firsts = [each[0] for each in found.values()]
    names = [" ".join(run.word(key) or f"no {key}" for key in by) for run in firsts] if by else labels(firsts)
    return [Group(name, members) for name, members in zip(names, found.values(), strict=True)]


def _directories(place: Path) -> Iterator[Path]:
    """Directories with a config.yaml: the place itself, and all below it."""
    if not place.is_dir():
        raise ConfigError(f"{place}: no such directory")
    yield from sorted(path.parent for path in place.rglob("config.yaml"))
