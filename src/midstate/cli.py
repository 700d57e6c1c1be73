"""Errors of the command line: each becomes a message and an exit status."""

import logging
import multiprocessing
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from midstate.common.errors import (
    EXIT_BAD_CONFIG,
    EXIT_DEFECT,
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    ConfigError,
    RunFailed,
    RunStopped,
    first_line,
)
from midstate.common.secrets import flush_output, say, show_any_letter
from midstate.config.compose import register_local_members, run_composed_once
from midstate.config.explain import explain, frames_of, is_users
from midstate.config.overrides import check_command_line
from midstate.config.texts import as_typed
from midstate.config.values import check_jobs, check_values
from midstate.distributed.environment import local_rank
from midstate.distributed.launchers import is_job, wait_for_submitted
from midstate.distributed.signals import (
    asked_within,
    is_first,
    is_stopping,
    listen_between_runs,
    stop_workers_on_signal,
)

PATIENCE = 10  # seconds that other ranks wait for torchrun's signal before they print an error themselves


def command_line(main: Callable[[], None]) -> int:
    """Run a `hydra.main` function; turn bad configurations and failed runs into a message and a status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us instead of Hydra's own printing
    show_any_letter()
    logging.raiseExceptions = False  # no tracebacks from logging when the disk is full
    try:
        with stop_workers_on_signal() as stop_requested:
            status = _status(main)
            if not stop_requested():
                _compare_sweeps()
        # A pool that was stopped can be continued by the same command, even if some of its jobs failed.
        return EXIT_STOPPED if status == EXIT_FAILED and stop_requested() else status
    finally:
        flush_output()


class Sweep(Callback):
    """Checks values before anything heavy is loaded, and remembers the sweep that this process has begun.

    conf/train.yaml lists this callback; `identity` is the same in all jobs of a sweep.
    """

    begun: ClassVar[list[tuple[str, str]]] = []  # the sweep's directory and identity

    def __init__(self, identity: str) -> None:
        self.identity = identity

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the values of a single run."""
        with _past_callbacks():
            check_values(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In the main process of a sweep: check the values of all its jobs, and remember the sweep."""
        with _past_callbacks():
            check_jobs(config)
        self.begun.append((config.hydra.sweep.dir, self.identity))


def _compare_sweeps() -> None:
    """Print a table of the runs of each sweep that has ended, also where one of its jobs has failed."""
    while Sweep.begun:
        from midstate.runs.compare import compare  # heavy, as the runs themselves
        from midstate.runs.sweep import noted, notes_of

        place, identity = Sweep.begun.pop()
        notes = notes_of(place, identity)
        try:
            if len(runs := [run for run in noted(notes) if run.is_dir()]) > 1:
                say(compare(runs, (), Path(place)))
        except (ConfigError, RunFailed, OSError) as error:
            say(f"no table of the sweep: {error}")  # standard error already has the errors of the jobs
        finally:
            shutil.rmtree(notes, ignore_errors=True)


class _Ended(BaseException):
    """Carries an error past Hydra, which would otherwise print the command line before the error's message."""


@contextmanager
def _past_callbacks() -> Iterator[None]:
    """Let errors of a callback reach `command_line`; Hydra would turn them into warnings."""
    try:
        yield
    except Exception as error:
        raise _Ended from error


@contextmanager
def past_hydra() -> Iterator[None]:
    """Let errors reach `command_line` as they are, except in a sweep, where Hydra goes on to the next job.

    A ConfigError ends a search that runs its jobs in this process: otherwise it would go on with such configurations.
    A pool worker listens for a request to stop from here on, because the imports of a run take seconds.
    """
    in_pool = multiprocessing.current_process().name != "MainProcess"  # in joblib's; others have own handlers
    if in_pool and is_job(HydraConfig.get().mode):
        listen_between_runs()
    try:
        yield
    except (ConfigError, RunFailed) as error:
        config = HydraConfig.get()
        searching = is_first() and config.runtime.choices["hydra/sweeper"] != "basic"
        if config.mode == RunMode.MULTIRUN and not (searching and isinstance(error, ConfigError)):
            raise
        raise _Ended from error


def _status(main: Callable[[], None]) -> int:
    resolved = any(len(each) > 3 and "--resolve".startswith(each) for each in sys.argv)  # or an abbreviation of it
    try:
        sys.argv[1:] = as_typed(sys.argv[1:])  # where Hydra reads the overrides
        check_command_line(sys.argv[1:])
        register_local_members()
        with _redacted_output() if resolved else nullcontext():
            run_composed_once(main, sys.argv[1:])
    except _Ended as ended:
        return _tell(ended.__cause__)
    except KeyboardInterrupt:  # by a second Ctrl-C; the first lets the step finish
        say("stopped at once; the last checkpoint is whole", sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        reader_left = isinstance(error, BrokenPipeError) and frames_of(error)[-1][0].startswith("hydra.")
        if not reader_left:  # a closed pipe under Hydra's own output, as in `--cfg job | head`, is no error
            return _tell(error)
    return EXIT_FINISHED


def _tell(error: BaseException) -> int:
    """Print the message of an error for the user; return its exit status."""
    message, status = _message(error)
    # Under torchrun most processes meet the same error: the first prints it, and torchrun then stops the others.
    if message and (status == EXIT_DEFECT or not local_rank() or not asked_within(PATIENCE)):
        say(message, sys.stderr)
    return status


def _message(error: BaseException) -> tuple[str | None, int]:
    if isinstance(error, RunStopped):
        return None, EXIT_STOPPED
    if isinstance(error, RunFailed):
        return f"run failed: {error}", EXIT_FAILED
    if isinstance(error, BrokenExecutor):  # joblib's, of the pool launcher
        lost = "a worker of the pool was killed, and its jobs with it; the same command runs what is not finished"
        return f"run failed: {lost} ({first_line(error)})", EXIT_FAILED
    if lost := _lost_job(error):
        wait_for_submitted()
        return None if is_stopping() else f"run failed: {lost}", EXIT_FAILED
    if is_users(error):
        return f"configuration error: {explain(error)}", EXIT_BAD_CONFIG
    return "".join(traceback.format_exception(error)), EXIT_DEFECT


def _lost_job(error: BaseException) -> str | None:
    """Message for a sweep that lost the result of a job; None for other errors."""
    frames = frames_of(error)
    if ("submitit.core.core", "results") in frames:
        return (
            "a job of the sweep ended without a result; what it said is in .submitit below the sweep's directory, and "
            f"the same command runs what is not finished ({first_line(error)})"
        )
    if ("ray._private.worker", "get") in frames:
        return (
            "a job of the sweep was lost, and those beside it stopped; the same command runs what is not finished "
            f"({first_line(error)})"
        )
    if ("optuna.study.study", "best_trial") in frames:
        return "no trial of the sweep has finished"
    return None


@contextmanager
def _redacted_output() -> Iterator[None]:
    """Redact secrets in what Hydra prints: a resolved configuration has the values of environment variables."""
    try:
        with redirect_stdout(StringIO()) as text:
            yield
    finally:
        say(text.getvalue(), end="")
