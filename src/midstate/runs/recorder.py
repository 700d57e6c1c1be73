"""What a run writes while it goes on: tables, checkpoints, summary, and W&B beside them.

Of several processes the first writes; the others wait, and fail where it fails.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from midstate.common.errors import RunFailed
from midstate.common.secrets import redact
from midstate.engine.session import Session
from midstate.runs import checkpoint
from midstate.runs.directory import write_config, write_summary
from midstate.runs.plan import Plan
from midstate.runs.report import epoch_line
from midstate.runs.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass
class Recorder:
    """Writes what happens in a run."""

    plan: Plan
    session: Session
    tracker: Tracker
    started: float  # on the clock of time.perf_counter, moved back by the time of earlier attempts

    def start(self) -> None:
        """Write the configuration, begin W&B's side.

        Raises:
            RunFailed: it cannot be written.
        """

        def write() -> None:
            with self.writing("config.yaml"):
                write_config(self.plan.directory, self.plan.config)
            self.tracker.start(self._start_wandb)

        self.session.processes.agree(write)

    def save(self) -> None:
        """Save a checkpoint.

        Raises:
            RunFailed: the weights are not finite, or it cannot be written; those before stay as they are.
        """
        self.session.synchronise()
        self.session.check_finite()
        state = {
            "config_hash": self.plan.hash,
            "seed": self.plan.config["seed"],
            "config": redact(self.plan.config),
            "wall_seconds": self.wall_seconds(),
            **self.session.state_dict(),
        }

        def write() -> None:
            with self.writing("a checkpoint"):
                checkpoint.save(self.plan.directory / "checkpoints", self.session.step, state)

        self.session.processes.agree(write)

    def end_of_epoch(self, row: dict[str, Any]) -> None:
        """Write the tables, log the row, print a line."""
        session = self.session
        self.tables()
        if session.processes.first:
            kept = zip(session.pruner.layers, session.pruner.kept(), strict=True)
            self.tracker.log({**row, **{f"kept/{layer.name}": share for layer, share in kept}})
        log.info(epoch_line(row, session.settings.epochs, session.pruner.describe(session.step)))

    def summary(self, status: str, **more: Any) -> dict[str, Any]:
        """Write summary.json and return it."""
        return self.session.processes.agree(lambda: self.write_summary(status, **more))

    def write_summary(self, status: str, **more: Any) -> dict[str, Any]:
        """Write summary.json and return it, without asking the other processes."""
        summary = {"status": status, **self.plan.facts(), **more, "wall_seconds": self.wall_seconds()}
        with self.writing("summary.json"):
            write_summary(self.plan.directory, summary)
        return summary

    def tables(self) -> None:
        """Write the tables as they are now."""
        session = self.session

        def write() -> None:
            with self.writing("tables"):
                self.tracker.tables(session.rows, session.probe_rows, session.losses)

        session.processes.agree(write)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Say what a full or vanished disk leaves: everything is written whole or not at all."""
        try:
            yield
        except OSError as error:
            raise RunFailed(
                f"{what} cannot be written to {self.plan.directory} ({error.strerror or error}); what was written "
                f"before is whole, and {self.plan.again} goes on from there"
            ) from error

    def wall_seconds(self) -> float:
        """Seconds spent on this run so far, earlier attempts included."""
        return time.perf_counter() - self.started

    def _start_wandb(self) -> Any:
        plan = self.plan
        if not plan.parts["logger"]:
            return None
        seed = plan.config["seed"]
        name = " ".join(
            (plan.choices["model"], plan.choices["data"], plan.name, plan.choices["schedule"], f"seed{seed}")
        )
        return plan.parts["logger"].start(
            plan.directory, redact(plan.config), f"{plan.hash}-seed{seed}", plan.name, name
        )
