"""One process a run directory: a lock of the operating system's, which is gone when its holder is."""

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
LOOKS, SECONDS = 5, 0.01  # before a directory counts as held, and between two


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a run directory; it is made where it is missing.

    The file stays when nobody holds it any more: to remove it would let two processes lock two files of one name.

    Raises:
        ConfigError: another process holds it, and which; or it cannot be made.
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
    """Lock a file; a sweep that looks whether it is locked holds it for a moment, and that is waited for."""
    for _ in range(LOOKS):
        with suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(SECONDS)
    return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(handle: int) -> str:
    try:
        held = json.loads(os.read(handle, 1000))
        return f"process {held['pid']} on {held['host']} since {held['since'][:19]} UTC"
    except (ValueError, KeyError, TypeError):  # it is just being written, or could not be
        return "another process"
