"""One run: train, measure, write the run directory."""

import logging
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from midstate import checkpoint, counting, metrics, runs
from midstate.cli import EXIT_FAILED, EXIT_FINISHED, EXIT_STOPPED
from midstate.config import ConfigError, RunFailed, redact
from midstate.engine import Session, train
from midstate.files import write_atomically
from midstate.locking import locked
from midstate.machine import enough_memory
from midstate.plan import Plan, typed_overrides
from midstate.probes import NUM_IMAGES
from midstate.report import epoch_line, result_table
from midstate.sensitivity import COLUMNS, sensitivities
from midstate.sparsity import Pruner
from midstate.stopping import stop_on_signal
from midstate.tracking import Tracker, write_csv

log = logging.getLogger(__name__)


def run(config: DictConfig) -> float:
    """Train, evaluate, write the run directory; return the last validation top-1 (for sweepers).

    Raises:
        ConfigError: nothing is written.
        RunFailed: training diverged or collapsed, or the disk is full; the last good checkpoint is kept.
        SystemExit: stopped on request (status 75); the same command goes on from there.
    """
    try:
        return _run(Plan.of(config))
    except Exception as error:
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN:  # say it now: Hydra speaks of the first failing job only, at the end
            if not isinstance(error, ConfigError | RunFailed):
                print(redact(traceback.format_exc()), file=sys.stderr)
            job = f"job {hydra.job.num} ({' '.join(typed_overrides())})"
            print(redact(f"{job} failed: {error}"), file=sys.stderr, flush=True)
        raise


def _run(plan: Plan) -> float:
    rerun = plan.config["rerun"]
    summary = None if rerun else _finished_before(plan)
    if summary is None:
        with enough_memory():
            session = plan.prepare()
        with locked(plan.directory):
            if rerun:
                _clear(plan.directory)
            else:
                summary = _finished_before(plan)  # by another process, meanwhile
            if summary is None:
                return _execute(plan, session)
    log.info("finished before; rerun=true starts over")
    if "states" in summary and not (plan.directory / "figures" / "schedule.svg").exists():  # the last to be drawn
        _draw(plan.directory, summary["layers"], summary["states"])
    return _report(plan, summary)


def _finished_before(plan: Plan) -> dict[str, Any] | None:
    """The summary of this run where it is finished."""
    runs.check_same_config(plan.directory, plan.config)
    summary = runs.read_summary(plan.directory)
    return summary if summary and summary["status"] == "finished" else None


def _report(plan: Plan, summary: dict[str, Any]) -> float:
    # Printed, not logged: tools read the last line, whatever becomes of the logging's configuration.
    print(result_table(summary))
    print(f"run_dir: {plan.directory}", flush=True)
    return summary["val_top1"]


@dataclass
class Recorder:
    """Writes what happens in a run: tables, checkpoints, summary."""

    plan: Plan
    session: Session
    tracker: Tracker
    started: float  # on the clock of time.perf_counter, moved back by the time of earlier attempts

    def save(self) -> None:
        """Save a checkpoint.

        Raises:
            RunFailed: the weights are not finite, or it cannot be written; those before stay as they are.
        """
        self.session.check_finite()
        state = {
            "config_hash": self.plan.hash,
            "seed": self.plan.config["seed"],
            "config": redact(self.plan.config),
            "wall_seconds": self.wall_seconds(),
            **self.session.state_dict(),
        }
        with self.writing("a checkpoint"):
            checkpoint.save(self.plan.directory / "checkpoints", self.session.step, state)

    def end_of_epoch(self, row: dict[str, Any]) -> None:
        """Write the tables, log the row, print a line."""
        session = self.session
        self.tables()
        kept = zip(session.pruner.layers, session.pruner.kept(), strict=True)
        self.tracker.log({**row, **{f"kept/{layer.name}": share for layer, share in kept}})
        log.info(epoch_line(row, session.settings.epochs, session.pruner.describe(session.step)))

    def summary(self, status: str, **more: Any) -> dict[str, Any]:
        """Write summary.json and return it."""
        summary = {"status": status, **self.plan.facts(), **more, "wall_seconds": self.wall_seconds()}
        with self.writing("summary.json"):
            runs.write_summary(self.plan.directory, summary)
        return summary

    def tables(self) -> None:
        """Write the tables as they are now."""
        session = self.session
        with self.writing("tables"):
            self.tracker.tables(session.rows, session.probe_rows, session.losses)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Say what a full or vanished disk leaves: everything is written whole or not at all."""
        try:
            yield
        except OSError as error:
            raise RunFailed(
                f"{what} cannot be written to {self.plan.directory} ({error.strerror or error}); what was written "
                "before is whole, and the same command goes on from there"
            ) from error

    def wall_seconds(self) -> float:
        """Seconds spent on this run so far, earlier attempts included."""
        return time.perf_counter() - self.started


def _execute(plan: Plan, session: Session) -> float:
    """Train and write the results; from here on files are written."""
    started = time.perf_counter()
    saved = checkpoint.load_latest(plan.directory / "checkpoints", plan.device)
    if saved:
        _check_same_run(plan, saved)
        session.load_state_dict(saved)
        started -= saved["wall_seconds"]
        log.info(f"going on from step {session.step} of {session.total_steps}")
    recorder = Recorder(plan, session, Tracker(plan.directory), started)
    with recorder.writing("config.yaml"):
        runs.write_config(plan.directory, plan.config)
    recorder.tracker.start(lambda: _start_wandb(plan))
    exit_code = EXIT_FAILED
    try:
        recorder.tables()
        with stop_on_signal() as stop_requested, enough_memory():
            if not train(session, recorder.save, recorder.end_of_epoch, stop_requested):
                exit_code = EXIT_STOPPED
                recorder.summary("stopped")
                log.info(f"stopped at step {session.step} of {session.total_steps}; the same command goes on from here")
                raise SystemExit(EXIT_STOPPED)
        with enough_memory():
            summary = _finish(recorder)
        exit_code = EXIT_FINISHED
    except RunFailed as error:
        with suppress(RunFailed):  # the disk may be what failed
            recorder.summary("failed", reason=str(error))
        raise
    finally:
        recorder.tracker.finish(exit_code)
    return _report(plan, summary)


def _check_same_run(plan: Plan, saved: dict[str, Any]) -> None:
    """Refuse a checkpoint of another run, which only a file that was moved can be."""
    if (saved["config_hash"], saved["seed"]) != (plan.hash, plan.config["seed"]):
        if "config" in saved:
            runs.check_same_config(plan.directory, plan.config, saved["config"])
        raise ConfigError(
            f"run_dir={plan.directory}: its checkpoint is of configuration {saved['config_hash']}, "
            f"seed {saved['seed']}; choose another, or rerun=true to replace it"
        )


def _start_wandb(plan: Plan) -> Any:
    if not plan.parts["logger"]:
        return None
    seed = plan.config["seed"]
    name = " ".join((plan.choices["model"], plan.choices["data"], plan.name, plan.choices["schedule"], f"seed{seed}"))
    return plan.parts["logger"].start(plan.directory, redact(plan.config), f"{plan.hash}-seed{seed}", plan.name, name)


def _finish(recorder: Recorder) -> dict[str, Any]:
    """Finalise the model, measure it once on test data, draw, and write the summary."""
    plan, session = recorder.plan, recorder.session
    pruner, model = session.pruner, session.model
    targets, kept, nominal = pruner.targets(), pruner.kept(), pruner.nominal_densities()
    pruner.finalise()
    verified = pruner.verify()
    if verified is False:
        raise RunFailed(_what_is_wrong(pruner))
    with recorder.writing("the finished network"):
        checkpoint.save_final(plan.directory / "checkpoints", model)
        if scheme := pruner.scheme():
            write_atomically(plan.directory / "scheme.json", scheme.encode())
    test = metrics.evaluate(model, session.data.test)
    with recorder.writing("sensitivity.csv"):
        _measure_sensitivities(plan, session)
    layers = [
        {"name": layer.name, "shape": list(layer.weight.shape), "depth": layer.depth, "target": target, "kept": share}
        for layer, target, share in zip(pruner.layers, targets, kept, strict=True)
    ]
    states = pruner.states()
    figures = _draw(plan.directory, layers, states)
    summary = recorder.summary(
        "finished",
        top1=test["top1"],
        top5=test["top5"],
        loss=test["loss"],
        val_top1=session.rows[-1]["val/top1"],
        top1_gap=session.probe_rows[-1]["gap_bn"] if session.probe_rows else None,
        **counting.count(
            model,
            pruner.layers,
            nominal,
            pruner.prunes_filters,
            session.uses,
            tuple(session.data.train.images.shape[1:]),
        ),
        pattern_verified=verified,
        allocation=pruner.allocation_report(),
        flipflop=pruner.flipflop(),
        layers=layers,
        states=states,
        images_per_second=sum(row["images_per_second"] for row in session.rows) / len(session.rows),
    )
    recorder.tracker.summarise(summary, figures)
    return summary


def _what_is_wrong(pruner: Pruner) -> str:
    """Why finished weights are not what was promised."""
    if dead := [layer.name for layer in pruner.layers if not layer.weight.any()]:
        return (
            f"collapsed: training has driven every weight of {', '.join(dead)} to zero; a smaller "
            "optimizer.weight_decay, pruner.decay or sparsity may help"
        )
    return "the finished weights do not obey the pattern; this is a defect, please report it"


def _measure_sensitivities(plan: Plan, session: Session) -> None:
    """Write sensitivity.csv, if asked, from the finished network."""
    share = session.settings.sensitivity
    if share is None:
        return
    first = session.data.validation.first(NUM_IMAGES)
    kinds = session.settings.sensitivity_kinds
    rows = sensitivities(session.model, session.pruner.layers, first, share, plan.config["seed"], kinds)
    write_csv(plan.directory / "sensitivity.csv", COLUMNS, rows)


def _draw(directory: Path, layers: list[dict[str, Any]], states: list[str]) -> list[Path]:
    from midstate.analysis.run_figures import draw_run  # matplotlib takes a second to import

    try:
        return draw_run(directory, layers, states)
    except OSError as error:
        log.warning(
            f"warning: figures cannot be written ({error.strerror or error}); the run goes on, and the same command "
            "draws them when it is finished"
        )
        return []


def _clear(directory: Path) -> None:
    """Remove what an earlier run wrote; anything else in the directory is the user's."""
    for name in ("checkpoints", "figures", "wandb"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in (
        "config.yaml",
        "losses.csv",
        "metrics.csv",
        "probes.csv",
        "scheme.json",
        "sensitivity.csv",
        "summary.json",
    ):
        (directory / name).unlink(missing_ok=True)
