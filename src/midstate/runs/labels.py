"""Labels of runs: the settings that differ between their configurations, as typed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from midstate.config.schema import flatten
from midstate.runs.identity import IRRELEVANT

GROUPS = ("model", "model_name", "data", "pruner", "schedule")
NAMED = 4  # settings in a label that nobody typed, at most


@dataclass(frozen=True)
class FinishedRun:
    """A finished run as read from its files."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key and value of every setting."""
        return dict(flatten(self.config))

    @cached_property
    def typed(self) -> dict[str, str]:
        """Key and value of every override; empty for older runs, which did not record them."""
        pairs = [word.lstrip("+~").partition("=") for word in self.summary.get("overrides", ())]
        return {key: value for key, _, value in pairs}

    def value(self, key: str) -> Any:
        """The value of a setting, or the chosen member of a group; None if the run has neither."""
        if key in self.settings:
            return self.settings[key]
        return self.summary.get("choices", {}).get(key, self.summary.get(key) if key in GROUPS else None)

    def word(self, key: str) -> str:
        """`key=value` as it was typed or could be typed; empty if the run has no such setting."""
        value = self.value(key)
        if value is None and key not in self.settings:
            return ""
        typed = None if isinstance(value, bool) else self.typed.get(key)  # launchers write True for true
        return f"{key}={typed or _written(value)}"


def labels(runs: Sequence[FinishedRun]) -> list[str]:
    """Label runs by the settings that differ: typed ones, then groups, then others, and last the config hash."""
    typed = [key for run in runs for key in run.typed]
    others = sorted({key for run in runs for key in run.settings} - set(typed))
    keys, words = [], [""] * len(runs)
    for more in (typed, GROUPS, others):
        differing = [key for key in dict.fromkeys(more) if _relevant(key) and _differs(runs, key)]
        keys += [key for key in differing if key not in keys][: NAMED if more is others else None]
        words = [" ".join(filter(None, (run.word(key) for key in keys))) for run in runs]
        if len(set(words)) == len(runs) and (all(words) or more is others):
            return [word or _whole(run) for word, run in zip(words, runs, strict=True)]
    return [f"{word} {run.summary['config_hash']}".strip() for word, run in zip(words, runs, strict=True)]


def _whole(run: FinishedRun) -> str:
    """Label of a run without differing settings: network, data, pruner, schedule."""
    return " ".join(str(run.value(key)) for key in ("model_name", "data", "pruner", "schedule") if run.value(key))


def _relevant(key: str) -> bool:
    if key.endswith("._target_"):  # a class; the chosen member names it
        return False
    return not any(key == name or key.startswith(f"{name}.") for name in IRRELEVANT)


def _differs(runs: Sequence[FinishedRun], key: str) -> bool:
    return len({repr(run.value(key)) for run in runs}) > 1


def _written(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
