"""One run: from a composed configuration to a directory of results."""

import logging
import os
import shutil
import sys
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from midstate import checkpoint, metrics, runs
from midstate.config import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_STOPPED,
    ConfigError,
    RunFailed,
    build,
    check_root,
)
from midstate.data import Batches
from midstate.engine import Session, Trainer, train
from midstate.models import classifier_name
from midstate.probes import GapProbe
from midstate.report import epoch_line, result_table
from midstate.sparsity import Direct, Method, Pruner, seed_for
from midstate.stopping import stop_on_signal
from midstate.tracking import Tracker

log = logging.getLogger(__name__)
AXES = ("scope", "pattern", "criterion", "allocation", "path", "update", "estimator")


def run(config: DictConfig) -> float:
    """Train, evaluate, write the run directory; return the last validation top-1 (for sweepers).

    Raises:
        ConfigError: nothing is written.
        RunFailed: training diverged; the last good checkpoint is kept.
        SystemExit: stopped on request (status 75); the same command goes on from there.
    """
    hydra = HydraConfig.get()
    try:
        return _run(config)
    except Exception as error:
        if hydra.mode.name == "MULTIRUN":  # say it now: Hydra speaks of the first failing job only, at the end
            if not isinstance(error, ConfigError | RunFailed):
                traceback.print_exc()
            print(
                f"job {hydra.job.num} ({' '.join(hydra.overrides.task)}) failed: {error}", file=sys.stderr, flush=True
            )
        raise


def _run(config: DictConfig) -> float:
    plan = Plan.of(config)
    summary = runs.read_summary(plan.directory)
    if summary and summary["status"] == "finished" and not plan.config["rerun"]:
        runs.check_same_config(plan.directory, plan.config)
        log.info("finished before; rerun=true starts over")
        log.info(result_table(summary))
        log.info(f"run_dir: {plan.directory}")
        return summary["val_top1"]
    if not plan.config["rerun"]:
        runs.check_same_config(plan.directory, plan.config)
    session = plan.prepare()
    if plan.config["rerun"]:
        _clear(plan.directory)
    return _execute(plan, session)


@dataclass
class Plan:
    """A configuration, checked and resolved, with the objects it names. Nothing is written yet."""

    config: dict[str, Any]  # resolved, every `auto` replaced
    parts: dict[str, Any]  # what the groups build
    choices: dict[str, str]
    directory: Path
    hash: str

    @classmethod
    def of(cls, config: DictConfig) -> "Plan":
        """Check a configuration and build its parts.

        Raises:
            ConfigError: anything in it that cannot work.
        """
        check_root(config)
        parts = {
            key: build(config, key) for key in ("model", "data", "schedule", "pruner", "optimizer", "trainer", "logger")
        }
        with user_errors("pruner"):
            parts["method"] = Method(**{axis: parts["pruner"].get(axis) for axis in AXES})
        resolved = OmegaConf.to_container(config, resolve=True)
        trainer = resolved["trainer"]
        if trainer["device"] == "auto":
            trainer["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        if trainer["threads"] == "auto":
            trainer["threads"] = 1 if parts["data"].embedded else os.cpu_count()
        if trainer["device"] == "cuda" and not 0 <= config.machine.device_index < torch.cuda.device_count():
            raise ConfigError(
                f"trainer.device=cuda, machine.device_index={config.machine.device_index}: this machine "
                f"has {torch.cuda.device_count()} CUDA devices; use trainer.device=cpu"
            )
        hydra = HydraConfig.get()
        choices = {key: str(value) for key, value in hydra.runtime.choices.items()}
        identity = runs.config_hash(resolved)
        if config.run_dir is not None and hydra.mode.name == "MULTIRUN":
            raise ConfigError(
                f"run_dir={config.run_dir}: a multirun's jobs each have their own directory; leave it out"
            )
        name = choices["pruner"] if choices.get("experiment", "None") == "None" else choices["experiment"]
        directory = Path(config.run_dir or Path("outputs", name, identity, f"seed{config.seed}"))
        _check_writable(directory)
        _warn_without_effect(list(hydra.overrides.task), parts["method"])
        return cls(resolved, parts, choices, directory, identity)

    def prepare(self) -> Session:
        """Load the data, make and attach everything; still nothing is written.

        Raises:
            ConfigError: the parts do not fit each other.
        """
        settings: Trainer = self.parts["trainer"]
        torch.set_num_threads(self.config["trainer"]["threads"])
        seed, device = self.config["seed"], self._device()
        with user_errors("data"):
            data = self.parts["data"].load().to(device)
        torch.manual_seed(seed_for(seed, "initialisation"))
        with user_errors("model", ValueError, TypeError, RuntimeError, AssertionError):
            model = self.parts["model"].create(data.shape[0], data.num_classes).to(device)
            self.uses = metrics.weight_uses(model, data.train.images[:2])  # also shows that model and images fit
        torch.manual_seed(seed_for(seed, "dropout"))
        batches = Batches(
            data.train, settings.batch_size, self.parts["data"].augmentation, seed, settings.max_steps_per_epoch
        )
        total_steps = settings.epochs * batches.steps_per_epoch
        with user_errors("pruner and schedule"):
            pruner = Pruner(
                model,
                self.parts["method"],
                self.parts["schedule"],
                batches.steps_per_epoch,
                total_steps,
                seed_for(seed, "pruning"),
                classifier_name(model),
            )
        if not pruner.method.dense and pruner.window.stop == total_steps:
            log.warning("warning: the schedule stops at the run's last step, so no step is trained at the target")
        with user_errors("optimizer"):
            optimizer = self.parts["optimizer"].create(model.parameters())
            rate = self.parts["optimizer"].rate(batches.steps_per_epoch, total_steps)
        probing = settings.probes and not pruner.method.dense
        probe = GapProbe(model, pruner, data.train, data.validation) if probing else None
        return Session(settings, data, model, pruner, optimizer, rate, batches, probe)

    def facts(self) -> dict[str, Any]:
        """What the summary says of the run whatever its end."""
        return {
            "format": runs.FORMAT,
            "config_hash": self.hash,
            "numerics": runs.NUMERICS,
            "seed": self.config["seed"],
            **{key: self.choices[key] for key in ("model", "data", "pruner", "schedule")},
            "epochs": self.parts["trainer"].epochs,
            "device": self.config["trainer"]["device"],
            "threads": self.config["trainer"]["threads"],
            "torch": torch.__version__,
            "git": runs.git_commit(),
        }

    def _device(self) -> torch.device:
        name = self.config["trainer"]["device"]
        return torch.device(name, self.config["machine"]["device_index"]) if name == "cuda" else torch.device(name)


@contextmanager
def user_errors(where: str, *kinds: type[Exception]):
    """Turn what a part refuses into a ConfigError that says which part."""
    try:
        yield
    except kinds or (ValueError,) as error:  # noqa: B030
        raise ConfigError(f"{where}: {error}") from error


def _execute(plan: Plan, session: Session) -> float:
    """Train and write the results; from the first line on, files are written."""
    directory, started = plan.directory, time.perf_counter()
    saved = checkpoint.load_latest(directory / "checkpoints", next(session.model.parameters()).device)
    earlier = 0.0
    if saved:
        session.load_state_dict(saved)
        earlier = saved["wall_seconds"]
        log.info(f"going on from step {session.step} of {session.total_steps}")
    runs.write_config(directory, plan.config)
    wandb_run = None
    if plan.parts["logger"]:
        group = plan.directory.parts[-3] if plan.config["run_dir"] is None else plan.choices["pruner"]
        wandb_run = plan.parts["logger"].start(
            directory,
            runs.redact(plan.config),
            f"{plan.hash}-seed{plan.config['seed']}",
            group,
            f"{plan.choices['model']} {plan.choices['pruner']} {plan.choices['schedule']} seed{plan.config['seed']}",
        )
    tracker, exit_code = Tracker(directory, wandb_run), EXIT_FAILED
    summary = plan.facts()

    def wall() -> float:
        return earlier + time.perf_counter() - started

    def save() -> None:
        checkpoint.save(
            directory / "checkpoints",
            session.step,
            {"config_hash": plan.hash, "seed": plan.config["seed"], "wall_seconds": wall(), **session.state_dict()},
        )

    def end_of_epoch(row: dict[str, Any]) -> None:
        tracker.tables(session.rows, session.probe_rows)
        kept = {
            f"kept/{layer.name}": share
            for layer, share in zip(session.pruner.layers, session.pruner.kept(), strict=True)
        }
        tracker.log({**row, **kept})
        log.info(epoch_line(row, plan.parts["trainer"].epochs, session.pruner.describe(session.step)))

    try:
        tracker.tables(session.rows, session.probe_rows)
        with stop_on_signal() as stop_requested:
            finished = train(session, save, end_of_epoch, stop_requested)
        if not finished:
            exit_code = EXIT_STOPPED
            runs.write_summary(directory, {**summary, "status": "stopped", "wall_seconds": wall()})
            log.info(f"stopped at step {session.step} of {session.total_steps}; the same command goes on from here")
            raise SystemExit(EXIT_STOPPED)
        summary |= _result(plan, session) | {"wall_seconds": wall()}
        if summary["pattern_verified"] is False:
            raise RunFailed("the finished weights do not obey the pattern; this is a defect, please report it")
        figures = _draw(directory, summary["layers"])
        summary = {"status": "finished", **summary}
        tracker.summarise(summary, figures)
        runs.write_summary(directory, summary)
        exit_code = EXIT_FINISHED
    except RunFailed as error:
        runs.write_summary(directory, {**summary, "status": "failed", "reason": str(error), "wall_seconds": wall()})
        raise
    finally:
        tracker.finish(exit_code)
    log.info(result_table(summary))
    log.info(f"run_dir: {directory}")
    return summary["val_top1"]


def _result(plan: Plan, session: Session) -> dict[str, Any]:
    """Finalise the model and measure it, once, on test data."""
    pruner, model = session.pruner, session.model
    targets, kept = pruner.targets(), pruner.kept()
    pruner.finalise()
    test = metrics.evaluate(model, session.data.test)
    gaps = [row["gap_bn"] for row in session.probe_rows]
    return {
        "top1": test["top1"],
        "top5": test["top5"],
        "loss": test["loss"],
        "val_top1": session.rows[-1]["val/top1"],
        "top1_gap": gaps[-1] if gaps else None,
        **metrics.count(model, pruner.layers, plan.uses),
        "pattern_verified": pruner.verify(),
        "layers": [
            {"name": layer.name, "shape": list(layer.weight.shape), "depth": layer.depth, "target": goal, "kept": share}
            for layer, goal, share in zip(pruner.layers, targets, kept, strict=True)
        ],
        "images_per_second": sum(row["images_per_second"] for row in session.rows) / len(session.rows),
    }


def _draw(directory: Path, layers: list[dict[str, Any]]) -> list[Path]:
    from midstate.analysis.run_figures import draw_run  # matplotlib takes a second to import

    return draw_run(directory, layers)


def _check_writable(directory: Path) -> None:
    """Refuse a directory that could not be made or written."""
    existing = next(path for path in (directory, *directory.parents, Path.cwd()) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"run_dir={directory}: must be a directory that can be written; {existing} is not")


def _clear(directory: Path) -> None:
    """Remove what an earlier run wrote; anything else in the directory is the user's."""
    for name in ("checkpoints", "figures", "wandb"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in ("config.yaml", "metrics.csv", "probes.csv", "summary.json"):
        (directory / name).unlink(missing_ok=True)


def _warn_without_effect(overrides: list[str], method: Method) -> None:
    """Warn of settings that the user typed and that change nothing."""
    typed = [o.lstrip("+~") for o in overrides if o.lstrip("+~").startswith("schedule")]
    if method.dense:
        useless, why = typed, "a dense run has no path to walk"
    elif isinstance(method.path, Direct):
        useless = [o for o in typed if not o.startswith("schedule.start=")]
        why = "this pruner has no intermediate states and jumps at schedule.start"
    else:
        return
    for override in useless:
        log.warning(f"warning: {override} has no effect: {why}")
