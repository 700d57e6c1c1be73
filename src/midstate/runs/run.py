"""One run, from its configuration to its directory: plan, open the directory, train, finish."""

import logging
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

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
from midstate.common.secrets import say, show_any_letter
from midstate.config.overrides import typed_overrides
from midstate.distributed.environment import local_rank
from midstate.distributed.launchers import is_job, queue_again
from midstate.distributed.machine import enough_memory
from midstate.distributed.processes import Processes, joined, others_at_work
from midstate.distributed.signals import stop_on_signal, stop_what_follows
from midstate.engine.loop import train
from midstate.engine.session import Session
from midstate.runs.directory import RunDirectory
from midstate.runs.finish import finish, show
from midstate.runs.opening import opening
from midstate.runs.page import NAME as PAGE
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.runs.recorder import Recorder
from midstate.runs.report import result_table
from midstate.runs.sweep import note
from midstate.runs.tracking import Tracker

log = logging.getLogger(__name__)


def run(config: DictConfig) -> float:
    """Train, evaluate, write the run directory; return the last validation top-1 (for sweepers).

    Raises:
        ConfigError: the configuration cannot run; no result is written.
        RunFailed: training diverged or collapsed, or the disk or the memory is full; the last checkpoint is kept.
        SystemExit: stopped on request (status 75); the same command goes on from there.
        RunStopped: stopped on request, in a worker process of a sweep.
    """
    show_any_letter()  # also in a launcher's worker
    try:
        with stop_on_signal() as stop_requested:
            if stop_requested():
                _exit_stopped()
            if local_rank():  # only the first process of each machine logs
                logging.getLogger("midstate").setLevel(logging.ERROR)
            with user_errors("this cannot be read here", OSError):
                plan = Plan.of(config)
            with joined(plan.parts.device) as processes:
                return _run(plan, processes, lambda: processes.any(stop_requested()))
    except Exception as error:
        if isinstance(error, RunStopped):
            queue_again(stop_requested.numbers)
        _tell_in_a_sweep(error)
        raise


def _run(plan: Plan, processes: Processes, stop_requested: Callable[[], bool]) -> float:
    _check_same_plan(plan, processes)
    directory = RunDirectory(plan, processes)
    note(plan.directory)
    summary = directory.finished()
    if summary is None:
        with enough_memory(), user_errors("this cannot be read here", OSError):
            session = build_session(plan, processes)
        directory.check_widths(session.narrowed)
        if stop_requested():
            _exit_stopped()
        with directory.held():
            summary = directory.finished()  # another process may have done it in the meantime
            if summary is None:
                return _report(directory, _train(plan, session, directory, stop_requested))
    log.info("finished before; rerun=true starts over")
    if processes.is_rank_zero and "states" in summary and not (directory.path / PAGE).exists():
        show(directory.path, summary, plan)  # report.html is written last: drawing was interrupted
    return _report(directory, summary)


def _train(plan: Plan, session: Session, directory: RunDirectory, stop_requested: Callable[[], bool]) -> dict[str, Any]:
    """Resume from the last checkpoint, if any; train, finish, and return the summary."""
    with enough_memory():
        started = time.perf_counter() - _resume(session, directory)
    recorder = Recorder(plan, session, directory, Tracker(directory.path), started)
    recorder.start()
    exit_code = EXIT_FAILED
    try:
        with enough_memory(), others_at_work():
            log.info(opening(plan, session))
            recorder.tables()
            done = train(session, recorder.save, recorder.end_of_epoch, stop_requested, recorder.end_of_episode)
            if not done or stop_requested():
                exit_code = EXIT_STOPPED
                recorder.summary("stopped")
                log.info(
                    f"stopped at step {session.step} of {session.total_steps}; {directory.again} goes on from here"
                )
                _exit_stopped()
            summary = finish(recorder)
        exit_code = EXIT_FINISHED
        return summary
    except RunFailed as error:
        if session.processes.is_rank_zero:  # no collective call: the others may be at any step
            with suppress(RunFailed):  # the disk may be what failed
                recorder.write_summary("failed", reason=str(error))
        raise
    finally:
        session.batches.close()
        recorder.tracker.finish(exit_code)


def _resume(session: Session, directory: RunDirectory) -> float:
    """Restore the last checkpoint, if any; return the seconds of training before it."""
    saved = directory.last_checkpoint()
    if saved is None:
        return 0.0
    session.load_state_dict(saved)
    log.info(f"going on from step {session.step} of {session.total_steps}")
    return saved["wall_seconds"]


def _report(directory: RunDirectory, summary: dict[str, Any]) -> float:
    # Printed, not logged: tools read the last line, whatever becomes of the logging's configuration.
    if directory.processes.is_rank_zero:
        say(result_table(summary))
        if (directory.path / PAGE).exists():
            say(f"report: {directory.path / PAGE}")
        say(f"run_dir: {directory.path}")
    return summary["val_top1"]


def _check_same_plan(plan: Plan, processes: Processes) -> None:
    """Refuse processes that differ in configuration, seed, rerun or the interval of checkpoints."""
    own = (plan.hash, plan.seed, plan.rerun, plan.parts.trainer.checkpoint_every)
    if len(set(processes.gather(own))) > 1:
        raise ConfigError(
            "torchrun: its processes have different configurations; type the same command on every machine, and where "
            "machines differ say trainer.device, trainer.threads and trainer.precision instead of auto"
        )


def _tell_in_a_sweep(error: Exception) -> None:
    """In a sweep, report a failed or stopped job at once: Hydra reports only the first one, at the end."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return
    if not isinstance(error, ConfigError | RunFailed | RunStopped):
        say(traceback.format_exc(), sys.stderr)
    ended = "" if isinstance(error, RunStopped) else " failed"
    say(f"job {hydra.job.num} ({' '.join(typed_overrides())}){ended}: {error}", sys.stderr)


def _exit_stopped() -> NoReturn:
    # A pool that receives SystemExit from a worker kills the other workers before they have saved.
    if is_job(HydraConfig.get().mode):
        stop_what_follows()
        raise RunStopped("stopped on request")
    raise SystemExit(EXIT_STOPPED)
