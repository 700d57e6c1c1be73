"""Sweeps on submitit (Slurm, or local processes) and Ray: stops reach their jobs, preempted ones are queued again.

Hydra's plugins start the jobs; these callbacks, named in conf/launcher and conf/sweep, add what the plugins lack.
Imports nothing heavy: Hydra creates callbacks before a run.
"""

import atexit
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from midstate.common.errors import EXIT_STOPPED, RunStopped
from midstate.distributed.signals import (
    SECONDS,
    SIGNALS,
    is_first,
    is_stopping,
    listen_between_runs,
    pass_on_to,
    stop_what_follows,
)

if TYPE_CHECKING:
    from submitit import Job
# No reports of use to Ray's makers, and no lines dropped because another job has printed the same.
RAY_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}

_submitted: "list[Job]" = []  # jobs that this process has submitted


class SubmititJobs(Callback):
    """For hydra/launcher=submitit_slurm and submitit_local."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In the main process of a sweep: pass a request to stop on to the jobs."""
        _remember_jobs()
        pass_on_to(_cancel_submitted)
        # Ctrl-C reaches all processes of a terminal, and local ones of submitit would kill their jobs unsaved. They
        # inherit the signals blocked in this thread; the new thread leaves SIGINT open for this process.
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In a job: remember a SIGTERM that comes before the run; submitit would ignore it."""
        if is_job(config.hydra.mode):
            listen_between_runs([signal.SIGTERM])


class RayJobs(Callback):
    """For hydra/launcher=ray."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In the main process of a sweep: start or join Ray, and pass a request to stop on to the jobs."""
        with suppress(Exception), _same_handlers():  # the launcher tries once more, and reports the error
            _start_ray(OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True))
            pass_on_to(_ask_ray_jobs)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In a job: listen for a request to stop."""
        if is_job(config.hydra.mode):
            threading.Thread(target=_wait_for_request, daemon=True).start()


class Search(Callback):
    """For sweepers that go on past failed runs, as hydra/sweeper=optuna."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """In the main process of a sweep: end with the status of a stopped run if the search was stopped."""
        if is_stopping():
            raise SystemExit(EXIT_STOPPED)


def queue_again(numbers: list[int]) -> None:
    """In a stopped submitit job: queue it again if it was preempted or its time is up.

    Args:
        numbers: the signals that the run has received.

    Raises:
        SystemExit: the job is queued again; submitit's own handler, in place again by now, raises it.
        RunStopped: submitit does not queue the job again.
    """
    preemption = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
    if "SUBMITIT_EXECUTOR" not in os.environ or preemption not in numbers:
        return
    try:
        signal.raise_signal(preemption)
    except RuntimeError as error:
        raise RunStopped(f"stopped on request; {error}") from error


def wait_for_submitted() -> None:
    """In the main process of a sweep: wait for submitted jobs that are still running."""
    while not all(job.done() for job in _submitted):
        time.sleep(SECONDS)


def is_job(mode: RunMode) -> bool:
    """Tell whether this is one of the processes that a sweep has for its jobs; `mode` is Hydra's."""
    return mode == RunMode.MULTIRUN and not is_first()


def _remember_jobs() -> None:
    """Have submitit's executor note the jobs that it returns: Hydra's launcher keeps them in a local variable."""
    from submitit import AutoExecutor

    map_array = AutoExecutor.map_array

    @wraps(map_array)
    def remembering(executor: AutoExecutor, function: Callable, *arguments: Iterable) -> "list[Job]":
        jobs = map_array(executor, function, *arguments)
        _submitted.extend(jobs)
        return jobs

    AutoExecutor.map_array = remembering


def _cancel_submitted() -> None:
    """Ask submitted jobs to stop, also those that are submitted later; never returns."""
    from submitit import LocalJob

    cancelled: set[str] = set()
    while True:
        for job in list(_submitted):
            if isinstance(job, LocalJob):
                # Its own `cancel` leaves a second to save. Repeated: a process that is starting may miss the signal.
                with suppress(ProcessLookupError):  # the job may end in between
                    if not job.done():
                        os.kill(int(job.job_id), signal.SIGTERM)
            elif job.job_id not in cancelled:
                cancelled.add(job.job_id)
                job.cancel(check=False)
        time.sleep(SECONDS)


def _start_ray(settings: dict[str, Any]) -> None:
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    if settings.get("address") == "local":
        # This Ray has a token that is stored nowhere, and its files are removed at exit.
        if not (Path.home() / ".ray" / "auth_token").exists():
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # In /tmp, as Ray does by default: names of sockets must be short.
        settings["_temp_dir"] = tempfile.mkdtemp(prefix="ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
        atexit.register(shutil.rmtree, settings["_temp_dir"], ignore_errors=True)
    import ray  # last, so that at exit its own handlers run before the rmtree registered here

    ray.init(**settings)


@contextmanager
def _same_handlers() -> Iterator[None]:
    """Restore the signal handlers after the context: Ray's for SIGTERM would end the sweep, and its jobs unsaved."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ask_ray_jobs() -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_request(), b"1")


def _wait_for_request() -> None:
    from ray.experimental.internal_kv import _internal_kv_exists

    while not _internal_kv_exists(_request()):
        time.sleep(SECONDS)
    stop_what_follows()


def _request() -> bytes:
    """The key of a stop request in Ray's key-value store; it is of this sweep only, also on a shared cluster."""
    import ray

    return f"midstate-stop-{ray.get_runtime_context().get_job_id()}".encode()
