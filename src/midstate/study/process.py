"""Runs that begin with everything imported: each is forked from a server that has imported it once.

A run spends seconds on importing torch, W&B and matplotlib, as much as a short training takes. The server imports
them and does nothing else: no tensor is made and no GPU touched before the fork.
"""

import os
import runpy
import signal
import sys
import threading
import time
from multiprocessing import connection, forkserver, get_context, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

from tqdm import tqdm

from midstate.common.project import ROOT

IMPORTS = [
    "midstate.study.server",
    "matplotlib.pyplot",
    "midstate.runs.figures",
    "midstate.runs.run",
    "torch._dynamo",  # every optimizer's first step imports it
    "wandb",
    "wandb.sdk.launch",  # every wandb.init does
]
# Signals that a terminal, `timeout` or a batch system sends to the whole group; only the sweep acts on them.
HELD_BACK = (signal.SIGTERM, signal.SIGINT)
LOST = 255  # the status that multiprocessing gives where the server died before it could tell

_context = get_context("forkserver")
_context.set_forkserver_preload(IMPORTS)
_lock = threading.Lock()  # `start` reads the status of every process that has ended, and it can be read but once


def start_train(arguments: list[str], log: Path) -> BaseProcess:
    """Begin `python train.py ARGUMENTS`, its output going to the end of `log`."""
    process = _context.Process(target=_train, args=(arguments, log))
    with _lock:
        _start_server()
        process.start()
    return process


def _start_server() -> None:
    """Start the server, if there is none; it inherits what this thread blocks, the signals of the group."""
    resource_tracker.ensure_running()  # a process of multiprocessing's own; starting it changes what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_status(process: BaseProcess, seconds: float | None = None) -> int:
    """Wait for a process and return its exit status, negative where a signal ended it; LOST where nobody can tell.

    Args:
        process: from `start_train`.
        seconds: after which it is killed; None: never.
    """
    if not connection.wait([process.sentinel], seconds):
        process.kill()
        connection.wait([process.sentinel])
    with _lock:
        process.join()
    while process.exitcode == LOST and _alive(process.pid):  # the server is gone, the run is not
        time.sleep(0.2)
    return process.exitcode


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _leave_group() -> None:
    """Take signals again, but those of the sweep's group."""
    os.setsid()
    # A SIGINT that came before is dropped; SIGTERM is meant for the run, too.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    signal.signal(signal.SIGINT, handler)


def _train(arguments: list[str], log: Path) -> None:
    _leave_group()
    tqdm.set_lock(threading.RLock())  # its own would be a semaphore that outlives a run that is killed
    with log.open("a") as file:  # of another sweep, or an earlier one, nothing is lost
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    script = str(ROOT / "train.py")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
