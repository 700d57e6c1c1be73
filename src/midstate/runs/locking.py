"""One process per run directory: a lock of the operating system, released when its holder ends."""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from midstate.common.errors import ConfigError

log = logging.getLogger(__name__)
FILE = ".lock"
LOOKS, SECONDS = 5, 0.01  # failed attempts before the last one, and the pause after each


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a run directory for the time of the context; the directory is made if it is missing.

    The lock file is never removed: otherwise two processes could lock two files of the same name.

    Raises:
        ConfigError: another process holds it (the message names the process), or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"run_dir={directory}: cannot be written ({error.strerror})") from error
    try:
        try:
            _lock(handle)
        except BlockingIOError:
            raise ConfigError(f"run_dir={directory}: in use by {_holder(handle)}; wait for it, or stop it") from None
        except OSError as error:  # some network file systems have no locks
            log.warning(f"warning: {directory} cannot be locked ({error.strerror}); start it only once")
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
        with suppress(OSError):  # a full disk: the lock holds without its holder's name
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(about).encode())
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Lock a file, with a few retries: a sweep that only tests the lock holds it for a moment."""
    for _ in range(LOOKS):
        with suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(SECONDS)
    return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(handle: int) -> str:
    try:
        held = json.loads(os.read(handle, 1000))
        return f"process {held['pid']} on {held['host']} since {held['since'][:19]} UTC"
    except (ValueError, KeyError, TypeError):  # the holder is still writing its name, or could not
        return "another process"
