"""Stopping on request: a signal sets a flag, the loop finishes its step and saves."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

_outside = threading.Event()  # a stop was requested of this process while it was not in a run


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was requested; a second SIGINT stops at once."""
    with _handled(lambda: None) as requested:
        yield lambda: requested() or _outside.is_set()


@contextmanager
def stop_workers_on_signal() -> Iterator[Callable[[], bool]]:
    """In the process that a sweep was started as: pass a request on to the processes of its jobs."""

    def pass_on() -> None:
        _outside.set()
        for worker in multiprocessing.active_children():
            worker.terminate()  # a terminal has sent them SIGINT already, and a second would stop them at once

    with _handled(pass_on) as requested:
        yield requested


def stop_what_follows() -> None:
    """In a process that does one job after another: let none that follows begin."""
    _outside.set()


def listen_between_runs() -> None:
    """In a process that does one job after another: let a request that comes between two jobs count for the next."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: _outside.set())


@contextmanager
def _handled(act: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    requested: list[int] = []

    def request(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in requested:
            raise KeyboardInterrupt
        requested.append(number)
        act()

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield lambda: False
        return
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield lambda: bool(requested)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def asked_within(seconds: float) -> bool:
    """Wait for a request to stop, and tell whether one came."""
    deadline = time.monotonic() + seconds
    while not _outside.is_set() and time.monotonic() < deadline:
        time.sleep(0.05)
    return _outside.is_set()
