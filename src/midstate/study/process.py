"""Start of `train.py` processes, each forked from a server that has imported everything once.

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
    "wandb.sdk.launch",  # every wandb.init imports it
]
# Signals that a terminal, `timeout` or a batch system sends to the whole group; only the sweep acts on them.
HELD_BACK = (signal.SIGTERM, signal.SIGINT)
LOST = 255  # multiprocessing's status of a process whose server died before reporting it

_context = get_context("forkserver")
_context.set_forkserver_preload(IMPORTS)
_lock = threading.Lock()  # `start` also reads the statuses of ended processes, and each can be read only once


def start_train(arguments: list[str], log: Path) -> BaseProcess:
    """Start `python train.py ARGUMENTS`, with its output appended to `log`."""
    process = _context.Process(target=_train, args=(arguments, log))
    with _lock:
        _start_server()
        process.start()
    return process


def _start_server() -> None:
    """Start the server, if there is none, with HELD_BACK blocked: it inherits this thread's signal mask."""
    resource_tracker.ensure_running()  # first, as starting this helper unblocks SIGINT and SIGTERM
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_status(process: BaseProcess, seconds: float | None = None) -> int:
    """Wait for a process and return its exit status, negative where a signal ended it; LOST if unknown.

    Args:
        process: from `start_train`.
        seconds: limit after which the process is killed; None: no limit.
    """
    if not connection.wait([process.sentinel], seconds):
        process.kill()
        connection.wait([process.sentinel])
    with _lock:
        process.join()
    while process.exitcode == LOST and _alive(process.pid):  # the server has died, the run has not
        time.sleep(0.2)
    return process.exitcode


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _leave_group() -> None:
    """Leave the sweep's process group, and take signals again."""
    os.setsid()
    # A pending SIGINT was meant for the sweep and is dropped; a pending SIGTERM ends the run, too.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    signal.signal(signal.SIGINT, handler)


def _train(arguments: list[str], log: Path) -> None:
    _leave_group()
    tqdm.set_lock(threading.RLock())  # tqdm's own is a semaphore, which a killed run would leave behind
    with log.open("a") as file:  # appended, so that output of other sweeps is kept
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    script = str(ROOT / "train.py")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
