"""Weights & Biases as a copy of the tables; the tables' columns."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midstate.common import checks
from midstate.common.errors import first_line
from midstate.common.secrets import redact
from midstate.sparsity.search import COLUMNS

log = logging.getLogger(__name__)
METRICS = (
    "epoch",
    "step",
    "lr",
    "progress",
    "kept",
    "churn",
    "revived",
    "gap",
    "train/loss",
    "train/top1",
    "val/loss",
    "val/top1",
    "images_per_second",
    "seconds",
)
LOSSES = ("step", "loss")
BITS = ("epoch", "layer", "weight_bits", "activation_bits")
PROBES = ("step", "progress", "from", "to", "gap", "gap_bn")
SEARCH = COLUMNS  # search.csv of a search for levels, one row per episode
MODES = ("offline", "online")
# Limits of W&B. `wandb.init` checks project and tags; a long group is refused by its server only: the run is lost.
LONGEST_NAME, LONGEST_TAG, NOT_IN_PROJECTS = 128, 64, "/\\#?%:"


@dataclass(frozen=True)
class Wandb:
    """Settings of Weights & Biases; see conf/logger/wandb.yaml."""

    mode: str
    project: str
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    weights_mb: float = 100.0

    def __post_init__(self) -> None:
        checks.one_of("mode", self.mode, MODES)
        _fits("project", checks.text("project", self.project), LONGEST_NAME)
        if any(sign in self.project for sign in NOT_IN_PROJECTS):
            raise ValueError(f"project={self.project!r}: must not hold any of {' '.join(NOT_IN_PROJECTS)}")
        if self.group is not None:
            _fits("group", checks.text("group", self.group), LONGEST_NAME)
        checks.number("weights_mb", self.weights_mb, 0)
        for tag in checks.texts("tags", self.tags, "baseline,first-try"):
            _fits("tags", tag, LONGEST_TAG)

    def start(self, directory: Path, config: dict[str, Any], identity: str, group: str, name: str) -> Any:
        """Start a W&B run that writes below `directory` and return it; if online fails, an offline one."""
        try:
            return self._start(self.mode, directory, config, identity, group, name)
        except Exception as error:
            if self.mode == "offline":
                raise
            import wandb

            wandb.teardown()  # otherwise the run's name stays taken
            log.warning(
                f"warning: W&B cannot be reached ({first_line(error)}); the run is recorded offline. "
                f"Later: wandb sync {directory}/wandb/offline-run-*"
            )
            return self._start("offline", directory, config, identity, group, name)

    def _start(self, mode: str, directory: Path, config: dict[str, Any], identity: str, group: str, name: str) -> Any:
        import wandb

        run = wandb.init(
            project=redact(self.project),
            group=redact(self.group or group)[:LONGEST_NAME],
            name=redact(name)[:LONGEST_NAME],
            id=identity,
            resume="allow",
            job_type="train",
            tags=redact(self.tags),
            dir=str(directory),
            mode=mode,
            config=config,
            # One W&B run per job, even if several jobs share a process; W&B does not capture the output.
            settings=wandb.Settings(reinit="finish_previous", console="off", silent=True),
        )
        # W&B's steps restart at 0 when an offline run resumes, so rows carry their epoch or episode.
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
        for name in SEARCH:
            run.define_metric(f"search/{name}", step_metric="search/episode" if name != "episode" else None)
        return run


def _fits(name: str, text: str, longest: int) -> None:
    if not 1 <= len(text) <= longest:
        raise ValueError(f"{name}={text!r}: must have 1 to {longest} letters for W&B, and this has {len(text)}")


class Tracker:
    """Sends the rows and results of a run to W&B, if W&B is on."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.wandb_run = directory, None

    def start(self, begin: Callable[[], Any]) -> None:
        """Start the W&B run: `begin` returns wandb's run, or None if W&B is off."""
        with self._nothing_lost():
            self.wandb_run = begin()

    def log(self, row: dict[str, Any]) -> None:
        """Log one row, of an epoch or of an episode, to W&B; None values are left out."""
        if self.wandb_run:
            with self._nothing_lost():
                self.wandb_run.log({key: value for key, value in row.items() if value is not None})

    def summarise(self, summary: dict[str, Any], figures: list[Path], weights_mb: float) -> None:
        """Log the finished run: `final/...` values, pictures, tables, and the weights where they are small enough."""
        if not self.wandb_run:
            return
        with self._nothing_lost():
            import wandb

            from midstate.runs.artifacts import send  # pandas takes a second to import

            self.wandb_run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
            for key, value in summary.items():
                self.wandb_run.summary[f"final/{key}"] = value
            send(self.wandb_run, self.directory, weights_mb)

    def finish(self, exit_code: int) -> None:
        """Close the W&B run; `exit_code` tells how our run ended."""
        if self.wandb_run:
            with self._nothing_lost():
                self.wandb_run.finish(exit_code=exit_code)

    @contextmanager
    def _nothing_lost(self) -> Iterator[None]:
        """Go on without W&B after any error of it: the tables hold everything."""
        try:
            yield
        except Exception as error:
            self.wandb_run = None
            with suppress(Exception):  # at the end of the process it would print a traceback
                import wandb

                wandb.teardown()
            log.warning(
                f"warning: W&B failed ({first_line(error)}); training goes on, and everything is in {self.directory}. "
                f"What W&B has: wandb sync {self.directory}/wandb/*run-*"
            )
