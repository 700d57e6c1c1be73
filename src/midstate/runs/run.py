"""One run: train, measure, write the run directory."""

import logging
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, NoReturn

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from midstate.common.errors import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_STOPPED,
    ConfigError,
    RunFailed,
    RunStopped,
    user_errors,
)
from midstate.common.files import remove_partial
from midstate.common.secrets import say
from midstate.config.overrides import typed_overrides
from midstate.distributed.environment import local_rank
from midstate.distributed.launchers import queue_again
from midstate.distributed.machine import enough_memory
from midstate.distributed.processes import Processes, joined, others_at_work
from midstate.distributed.signals import is_first, listen_between_runs, stop_on_signal, stop_what_follows
from midstate.engine.loop import train
from midstate.engine.session import Session
from midstate.runs import checkpoint
from midstate.runs.directory import check_own, check_same_config, clear, finished_before
from midstate.runs.finish import draw, finish
from midstate.runs.locking import locked
from midstate.runs.plan import Plan
from midstate.runs.prepare import prepare
from midstate.runs.recorder import Recorder
from midstate.runs.report import result_table
from midstate.runs.tracking import Tracker

log = logging.getLogger(__name__)


def run(config: DictConfig) -> float:
    """Train, evaluate, write the run directory; return the last validation top-1 (for sweepers).

    Raises:
        ConfigError: nothing is written.
        RunFailed: training diverged or collapsed, or the disk or the memory is full; the last checkpoint is kept.
        SystemExit: stopped on request (status 75); the same command goes on from there.
        RunStopped: the same, in a process of its own that a sweep has for its jobs.
    """
    if _is_worker() and multiprocessing.current_process().name != "MainProcess":  # joblib's: others have own handlers
        listen_between_runs()
    try:
        with stop_on_signal() as stop_requested:
            if stop_requested():
                _leave()
            if local_rank():  # the first process of each machine speaks for all
                logging.getLogger("midstate").setLevel(logging.ERROR)
            with user_errors("this cannot be read here", OSError):
                plan = Plan.of(config)
            with joined(plan.device) as processes:
                return _run(plan, processes, lambda: processes.any(stop_requested()))
    except Exception as error:
        hydra = HydraConfig.get()
        if isinstance(error, RunStopped):
            queue_again(stop_requested.numbers)
        if hydra.mode == RunMode.MULTIRUN:  # say it now: Hydra speaks of the first failing job only, at the end
            if not isinstance(error, ConfigError | RunFailed | RunStopped):
                say(traceback.format_exc(), sys.stderr)
            job = f"job {hydra.job.num} ({' '.join(typed_overrides())})"
            say(f"{job} failed: {error}", sys.stderr)
        raise


def _is_worker() -> bool:
    """Tell whether this is one of the processes that a sweep keeps for its jobs."""
    return HydraConfig.get().mode == RunMode.MULTIRUN and not is_first()


def _run(plan: Plan, processes: Processes, stop_requested: Callable[[], bool]) -> float:
    rerun = plan.config["rerun"]
    _check_same_plan(plan, processes)
    summary = processes.agree(lambda: _finished(plan))
    if summary is None:
        with enough_memory(), user_errors("this cannot be read here", OSError):
            session = prepare(plan, processes)
        if stop_requested():
            _leave()
        with ExitStack() as stack:
            processes.agree(lambda: stack.enter_context(locked(plan.directory)))
            if rerun:
                processes.agree(lambda: clear(plan.directory))
            else:
                summary = processes.agree(lambda: finished_before(plan.directory, plan.config))  # by another, meanwhile
            if summary is None:
                return _execute(plan, session, stop_requested)
    log.info("finished before; rerun=true starts over")
    if processes.first and "states" in summary and not (plan.directory / "figures" / "schedule.svg").exists():
        draw(plan.directory, summary["layers"], summary["states"])  # that file is the last to be drawn
    return _report(plan, processes, summary)


def _check_same_plan(plan: Plan, processes: Processes) -> None:
    """Refuse processes that would do different runs, or not the same steps of one."""
    config = plan.config
    own = (plan.hash, config["seed"], config["rerun"], config["trainer"]["checkpoint_every"])
    if len(set(processes.gather(own))) > 1:
        raise ConfigError(
            "torchrun: its processes have different configurations; type the same command on every machine, and where "
            "machines differ say trainer.device, trainer.threads and trainer.precision instead of auto"
        )


def _finished(plan: Plan) -> dict[str, Any] | None:
    """The summary of the run, where it is finished and not to be done again."""
    if not plan.config["rerun"]:
        return finished_before(plan.directory, plan.config)
    check_own(plan.directory)
    return None


def _report(plan: Plan, processes: Processes, summary: dict[str, Any]) -> float:
    # Printed, not logged: tools read the last line, whatever becomes of the logging's configuration.
    if processes.first:
        say(result_table(summary))
        say(f"run_dir: {plan.directory}")
    return summary["val_top1"]


def _execute(plan: Plan, session: Session, stop_requested: Callable[[], bool]) -> float:
    """Train and write the results; from here on files are written."""
    processes = session.processes
    if processes.first:
        remove_partial(plan.directory)
    with enough_memory():
        started = time.perf_counter() - _go_on(plan, session)
    recorder = Recorder(plan, session, Tracker(plan.directory), started)
    recorder.start()
    exit_code = EXIT_FAILED
    try:
        with enough_memory(), others_at_work():
            recorder.tables()
            done = train(session, recorder.save, recorder.end_of_epoch, stop_requested)
            if not done or stop_requested():  # its last checkpoint is saved
                exit_code = EXIT_STOPPED
                recorder.summary("stopped")
                log.info(f"stopped at step {session.step} of {session.total_steps}; {plan.again} goes on from here")
                _leave()
            summary = finish(recorder)
        exit_code = EXIT_FINISHED
    except RunFailed as error:
        if processes.first:  # the others may be anywhere
            with suppress(RunFailed):  # the disk may be what failed
                recorder.write_summary("failed", reason=str(error))
        raise
    finally:
        session.batches.close()
        recorder.tracker.finish(exit_code)
    return _report(plan, processes, summary)


def _go_on(plan: Plan, session: Session) -> float:
    """Take back the last checkpoint, if there is one; the seconds spent until then."""
    processes = session.processes
    device = plan.device if processes.size == 1 else torch.device("cpu")  # from where the others take it
    saved = processes.agree(lambda: _last_checkpoint(plan, device))
    if saved is None:
        return 0.0
    session.load_state_dict(saved)
    log.info(f"going on from step {session.step} of {session.total_steps}")
    return saved["wall_seconds"]


def _last_checkpoint(plan: Plan, device: torch.device) -> dict[str, Any] | None:
    with user_errors("checkpoints", OSError):
        saved = checkpoint.load_latest(plan.directory / "checkpoints", device)
    if saved is not None:
        _check_same_run(plan, saved)
    return saved


def _leave() -> NoReturn:
    # A pool that a SystemExit came back to would kill its other workers before they have saved.
    if _is_worker():
        stop_what_follows()
        raise RunStopped("stopped on request")
    raise SystemExit(EXIT_STOPPED)


def _check_same_run(plan: Plan, saved: dict[str, Any]) -> None:
    """Refuse a checkpoint of another run, which only a file that was moved can be."""
    if (saved["config_hash"], saved["seed"]) != (plan.hash, plan.config["seed"]):
        if "config" in saved:
            check_same_config(plan.directory, plan.config, saved["config"])
        raise ConfigError(
            f"run_dir={plan.directory}: its checkpoint is of configuration {saved['config_hash']}, "
            f"seed {saved['seed']}; choose another, or rerun=true to replace it"
        )
