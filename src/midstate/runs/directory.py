"""A run's directory: which run owns it, its lock, and all that is written there."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from midstate.common.errors import ConfigError, RunFailed, user_errors
from midstate.common.files import remove_partial, write_atomically
from midstate.common.secrets import redact
from midstate.config.schema import flatten
from midstate.distributed.processes import Processes
from midstate.runs import checkpoint
from midstate.runs.files import EXPORT, EXPORTED, is_run, read_config, read_summary, write_config, write_summary
from midstate.runs.identity import FIXED, IRRELEVANT, config_hash
from midstate.runs.locking import locked
from midstate.runs.plan import Plan

log = logging.getLogger(__name__)
NAMED = 8  # settings that a message names at most
TABLES = (
    *("metrics.csv", "probes.csv", "losses.csv", "sensitivity.csv", "search.csv", "bits.csv"),
    *("scheme.json", "report.html", "sensitivity_by_level.csv"),
)
FIGURES = tuple(
    f"{name}.{kind}"
    for name in ("accuracy", "kept_by_depth", "schedule", "sensitivity_by_level")
    for kind in ("png", "svg")
)


class RunDirectory:
    """The directory of one run: finished, resumable or fresh. Only this class checks which run owns it.

    With several processes, rank zero alone reads and writes; the others get its result or its error. All processes
    call `finished`, `held`, `last_checkpoint` and `write`.
    """

    def __init__(self, plan: Plan, processes: Processes) -> None:
        self.plan, self.processes, self.path = plan, processes, plan.directory
        self.checkpoints = self.path / "checkpoints"

    def finished(self) -> dict[str, Any] | None:
        """Return the summary if the run is finished and rerun=false, else None.

        Raises:
            ConfigError: the directory holds a run of another configuration or seed, or a damaged file.
        """
        return self.processes.on_rank_zero(self._finished)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the directory for the time of the context; rerun=true removes the files of the earlier run.

        Raises:
            ConfigError: another process holds it, or it cannot be made.
            RunFailed: a file cannot be removed.
        """
        with ExitStack() as stack:
            self.processes.on_rank_zero(lambda: stack.enter_context(locked(self.path)))
            if self.plan.rerun:
                self.processes.on_rank_zero(lambda: clear(self.path))
            yield

    def last_checkpoint(self) -> dict[str, Any] | None:
        """Load the last undamaged checkpoint, None if there are none; remove partial files.

        Raises:
            ConfigError: no checkpoint can be used, or the last one belongs to another run.
        """
        return self.processes.on_rank_zero(self._last_checkpoint)

    def check_widths(self, narrowed: dict[str, Any] | None) -> None:
        """Refuse to resume with other widths than the run began with: the run `pruner.like` may have changed since.

        Raises:
            ConfigError: the widths differ; the message names both.
        """
        begun = None if narrowed is None or self.plan.rerun else read_config(self.path)
        if begun and begun["model"].get("narrowed", narrowed) != narrowed:
            raise ConfigError(
                f"pruner.like={self.plan.config['pruner']['like']}: asks for {narrowed}, and this run began with "
                f"{begun['model']['narrowed']}; that run must have been made anew since. rerun=true starts over"
            )

    def write(self, what: str, call: Callable[[], Any]) -> Any:
        """Write on rank zero; every process returns the result.

        Args:
            what: name of the content, for messages.
            call: writes it.

        Raises:
            RunFailed: the disk is full or gone.
        """

        def writing() -> Any:
            with self.writing(what):
                return call()

        return self.processes.on_rank_zero(writing)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn an OSError into a RunFailed that says how to go on."""
        try:
            yield
        except OSError as error:
            raise RunFailed(
                f"{what} cannot be written to {self.path} ({error.strerror or error}); what was written "
                f"before is whole, and {self.again} goes on from there"
            ) from error

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml; rank zero only."""
        write_config(self.path, config)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json; rank zero only."""
        with self.writing("summary.json"):
            write_summary(self.path, summary)

    def write_network(self, model: torch.nn.Module, scheme: str | None) -> None:
        """Write final.pt, and scheme.json where the allocation has one; rank zero only."""
        checkpoint.save_final(self.checkpoints, model)
        if scheme:
            write_atomically(self.path / "scheme.json", scheme.encode())

    @property
    def again(self) -> str:
        """The command that goes on with this run, in words."""
        return "the same command without rerun=true" if self.plan.rerun else "the same command"

    def _finished(self) -> dict[str, Any] | None:
        config, stored = self.plan.config, read_config(self.path)
        if stored is not None and not is_run(stored):
            raise ConfigError(f"run_dir={self.path}: its config.yaml is no run's; choose another directory")
        if self.plan.rerun:
            return None
        if stored is not None:
            self._check_same(stored)
        summary = read_summary(self.path)
        if not summary or summary["status"] != "finished":
            return None
        if (summary.get("config_hash"), summary.get("seed")) != (self.plan.hash, config["seed"]):
            raise ConfigError(
                f"run_dir={self.path}: holds the result of configuration {summary.get('config_hash')}, seed "
                f"{summary.get('seed')}; choose another, or rerun=true to replace it"
            )
        return summary

    def _last_checkpoint(self) -> dict[str, Any] | None:
        remove_partial(self.path)
        # With several processes the state is sent through the CPU, and each moves it to its own device.
        device = self.plan.parts.device if self.processes.size == 1 else torch.device("cpu")
        with user_errors("checkpoints", OSError):
            saved = checkpoint.load_latest(self.checkpoints, device)
        # Another run's checkpoint can only be here if somebody has moved it here.
        if saved is not None and (saved["config_hash"], saved["seed"]) != (self.plan.hash, self.plan.seed):
            if "config" in saved:
                self._check_same(saved["config"])
            raise ConfigError(
                f"run_dir={self.path}: its checkpoint is of configuration {saved['config_hash']}, "
                f"seed {saved['seed']}; choose another, or rerun=true to replace it"
            )
        return saved

    def _check_same(self, stored: dict[str, Any]) -> None:
        """Refuse a stored configuration or seed that differs from this run's; the message names the differences."""
        config = redact(self.plan.config)
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
            f"run_dir={self.path}: holds a run of another configuration ("
            + "; ".join(differing or ["another version of its numerics"])
            + "); choose another, or rerun=true to replace it"
        )


def clear(directory: Path) -> None:
    """Remove the files of an earlier run, summary.json first and config.yaml last; other files are left alone.

    Raises:
        RunFailed: a file cannot be removed.
    """
    checkpoints = directory / "checkpoints"
    saved = (*checkpoints.glob("step-*.pt"), checkpoints / "final.pt", checkpoints / "extracted.pt2")
    try:
        _remove(directory / "summary.json", *saved, *(directory / EXPORT / name for name in EXPORTED))
        _remove(*(directory / "figures" / name for name in FIGURES), *(directory / name for name in TABLES))
        with suppress(FileNotFoundError):
            shutil.rmtree(directory / "wandb")
        _remove(directory / "config.yaml")
    except OSError as error:
        raise RunFailed(f"rerun=true: {error.filename} cannot be removed ({error.strerror})") from error


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
