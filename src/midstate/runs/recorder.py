"""Writes tables, checkpoints and summary of a run, and sends them to W&B."""

import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midstate.common.files import write_csv
from midstate.common.secrets import redact
from midstate.engine.session import Session
from midstate.runs import checkpoint
from midstate.runs.directory import RunDirectory
from midstate.runs.plan import Plan
from midstate.runs.report import epoch_line
from midstate.runs.tracking import BITS, LOSSES, METRICS, PROBES, SEARCH, Tracker

log = logging.getLogger(__name__)
NAME = 128  # letters that W&B allows in a name
FIRST_PICTURE = 10.0  # seconds until an unfinished run is drawn
PAUSE = 30  # pause between two drawings, in units of the drawing time: drawing takes about 3 % of the time


@dataclass
class Recorder:
    """Writes the results of a run."""

    plan: Plan
    session: Session
    directory: RunDirectory
    tracker: Tracker
    started: float  # time.perf_counter at the start, minus the seconds of earlier attempts
    episodes: int = 0  # episodes of a search logged so far
    next_picture: float = field(default_factory=lambda: time.perf_counter() + FIRST_PICTURE)  # by time.perf_counter

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as it is written: with the widths that narrowing has found."""
        narrowed, config = self.session.narrowed, self.plan.config
        return {**config, "model": {**config["model"], "narrowed": narrowed}} if narrowed else config

    def start(self) -> None:
        """Write the configuration and start the W&B run.

        Raises:
            RunFailed: config.yaml cannot be written.
        """
        self.directory.write("config.yaml", lambda: self.directory.write_config(self.config))
        self.episodes = len(search.rows) if (search := self.session.search) else 0  # logged before resuming
        if self.session.processes.is_rank_zero:
            self.tracker.start(self._start_wandb)

    def save(self) -> None:
        """Save a checkpoint.

        Raises:
            RunFailed: a weight is not finite, or the file cannot be written; earlier checkpoints stay.
        """
        self.session.synchronise()
        self.session.check_finite()
        state = {
            "config_hash": self.plan.hash,
            "seed": self.plan.seed,
            "config": redact(self.config),
            "wall_seconds": self.wall_seconds(),
            **self.session.state_dict(),
        }
        place = self.directory.checkpoints
        self.directory.write("a checkpoint", lambda: checkpoint.save(place, self.session.step, state))

    def end_of_epoch(self, row: dict[str, Any]) -> None:
        """Write the tables, log the row, print a line."""
        session = self.session
        self.tables()
        if session.processes.is_rank_zero:
            kept = zip(session.pruner.layers, session.pruner.kept(), strict=True)
            bits = session.quantizer.rows(row["epoch"]) if session.quantizer else []
            self.tracker.log(
                {
                    **row,
                    **{f"kept/{layer.name}": share for layer, share in kept},
                    **{f"bits/{each['layer']}": each["weight_bits"] for each in bits},
                }
            )
            self._draw()
        log.info(epoch_line(row, session.settings.epochs, session.describe()))

    def summary(self, status: str, **more: Any) -> dict[str, Any]:
        """Write summary.json on rank zero; every process returns it."""
        return self.session.processes.on_rank_zero(lambda: self.write_summary(status, **more))

    def write_summary(self, status: str, **more: Any) -> dict[str, Any]:
        """Write summary.json and return it, without a collective call; rank zero only."""
        summary = {"status": status, **self.plan.facts(), **more, "wall_seconds": self.wall_seconds()}
        self.directory.write_summary(summary)
        return summary

    def track(self, summary: dict[str, Any], figures: list[Path]) -> None:
        """Send the finished run to W&B."""
        if self.plan.parts.logger:
            self.tracker.summarise(summary, figures, self.plan.parts.logger.weights_mb)

    def tables(self) -> None:
        """Write metrics.csv, probes.csv, losses.csv and, where there are any, bits.csv and search.csv."""
        session, path = self.session, self.directory.path

        def write() -> None:
            losses = [{"step": step, "loss": loss} for step, loss in enumerate(session.losses, start=1)]
            write_csv(path / "metrics.csv", METRICS, session.rows)
            write_csv(path / "probes.csv", PROBES, session.probe_rows)
            write_csv(path / "losses.csv", LOSSES, losses)
            if session.quantizer:
                write_csv(path / "bits.csv", BITS, session.bit_rows)
            self._write_search()

        self.directory.write("tables", write)

    def end_of_episode(self) -> None:
        """Write search.csv and log its new rows."""
        self.directory.write("search.csv", self._write_search)

    def _write_search(self) -> None:
        """Write search.csv, if schemes are tried, and log its new rows; rank zero only."""
        if (search := self.session.search) is None:
            return
        rows = [{**row, "levels": json.dumps(row["levels"])} for row in search.rows]
        write_csv(self.directory.path / "search.csv", SEARCH, rows)
        for row in rows[self.episodes :]:
            self.tracker.log({f"search/{name}": value for name, value in row.items()})
        self.episodes = len(rows)

    def wall_seconds(self) -> float:
        """Seconds spent on this run so far, earlier attempts included."""
        return time.perf_counter() - self.started

    def _draw(self) -> None:
        """Redraw figures/accuracy.png, unless the pause after the last drawing still lasts, see PAUSE."""
        machine = self.plan.config["machine"]
        if not (machine["figures"] and machine["live_figures"]) or (begun := time.perf_counter()) < self.next_picture:
            return
        from midstate.runs.figures import draw_progress  # matplotlib takes a second to import

        with suppress(OSError):  # tables and checkpoints say what is wrong with the disk
            draw_progress(self.directory.path, self.session.states(), self.plan.title)
        self.next_picture = time.perf_counter() + PAUSE * (time.perf_counter() - begun)

    def _start_wandb(self) -> Any:
        plan = self.plan
        if not plan.parts.logger:
            return None
        config = {**redact(self.config), **plan.made_from()}
        return plan.parts.logger.start(
            plan.directory, config, f"{plan.hash}-seed{plan.seed}", plan.name, plan.title[:NAME]
        )
