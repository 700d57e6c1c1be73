"""Stopping on request: a signal sets a flag, the loop finishes its step and saves."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
# Sent by a sweep to the workers of its pool. Not SIGTERM, which would end a worker that has no job yet, and with it
# the pool; not SIGINT, which a terminal has sent them already and whose second arrival stops at once.
PASSED_ON = signal.SIGURG
SECONDS = 0.5  # between repetitions: a worker whose job has just begun can miss the first
_outside = threading.Event()  # a stop was requested of this process while it was not in a run
_first: list[int] = []  # pid of the process that the user started; not of a launcher's worker
_jobs_elsewhere: list[Callable[[], None]] = []  # functions that stop jobs which are no children of this process


class Requests:
    """The signals that came so far, in `numbers`."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self) -> bool:
        """Tell whether to stop."""
        return bool(self.numbers) or _outside.is_set()


@contextmanager
def stop_on_signal() -> Iterator[Requests]:
    """Yield the requests to stop, which are true when called if there is one; a second SIGINT stops at once."""
    requests = Requests()
    with _handled(requests.numbers, lambda: None):
        yield requests


@contextmanager
def stop_workers_on_signal() -> Iterator[Callable[[], bool]]:
    """In the main process of a sweep: pass a request to stop on to the workers; yield a function that tells of one."""

    def pass_on() -> None:
        _outside.set()
        workers = [worker.pid for worker in multiprocessing.active_children()]
        # In threads: the signal may have interrupted code that holds a lock `ask` needs.
        for ask in (lambda: _ask(workers), *_jobs_elsewhere):
            threading.Thread(target=ask, daemon=True).start()

    _first[:] = [os.getpid()]
    numbers: list[int] = []
    with _handled(numbers, pass_on):
        yield lambda: bool(numbers)


def _ask(workers: list[int]) -> None:
    while workers:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, PASSED_ON)
        time.sleep(SECONDS)


def is_first() -> bool:
    """True in the process that the user started; false in a worker of a launcher."""
    return _first == [os.getpid()]


def pass_on_to(ask: Callable[[], None]) -> None:
    """In the main process of a sweep: call `ask`, in a thread, when a stop is requested."""
    _jobs_elsewhere.append(ask)


def stop_what_follows() -> None:
    """In a worker: finish the present job, begin no other."""
    _outside.set()


def is_stopping() -> bool:
    """Tell whether a stop was requested of this process while it was not in a run."""
    return _outside.is_set()


def listen_between_runs(numbers: Iterable[signal.Signals] = (*SIGNALS, PASSED_ON)) -> None:
    """In a worker: remember a request that comes before a run or between two runs."""
    for number in numbers:
        signal.signal(number, lambda number, frame: _outside.set())


@contextmanager
def _handled(requested: list[int], act: Callable[[], None]) -> Iterator[None]:
    def request(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in requested:
            raise KeyboardInterrupt
        requested.append(number)
        act()

    if threading.current_thread() is not threading.main_thread():  # Python sets handlers only there
        yield
        return
    before = {number: signal.signal(number, request) for number in (*SIGNALS, PASSED_ON)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def asked_within(seconds: float) -> bool:
    """Wait for a request to stop, and tell whether one came."""
    deadline = time.monotonic() + seconds
    while not is_stopping() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_stopping()
