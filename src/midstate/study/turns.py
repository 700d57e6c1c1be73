"""Two processes that want the same run: the first makes it, the other waits and finds it made."""

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from midstate.common.secrets import say
from midstate.runs.locking import FILE

SECONDS = 0.5  # between two tries


@contextmanager
def turn(log: Path, directory: Path, stopping: threading.Event) -> Iterator[bool]:
    """Lock a run's log while this sweep makes the run; the lock is released however its holder ends.

    Args:
        log: file of the run's output; created where it is missing, and never emptied.
        directory: of the run; a `train.py` outside of any sweep may hold it.
        stopping: ends the waiting.

    Yields:
        Whether the run may begin; False where a stop came first.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        ours, told = _taken(file), False
        while not ours or is_held(directory):
            if not told:
                say(f"{directory}: another process makes this run; waiting for it")
                told = True
            if stopping.wait(SECONDS):
                break
            ours = ours or _taken(file)
        yield ours and not stopping.is_set()


def is_held(directory: Path) -> bool:
    """Tell whether a process holds a run's directory."""
    try:
        with (directory / FILE).open() as file:  # a shared lock: others may test at the same time
            return not _taken(file, fcntl.LOCK_SH)
    except OSError:  # no run has begun there
        return False


def _taken(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    """Lock a file until it is closed; False where another process has locked it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        pass
    return True
