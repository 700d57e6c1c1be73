"""Execution of planned runs, each in a process of its own, so that a crash ends no other run."""

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from midstate.common.errors import EXIT_BAD_CONFIG, EXIT_STOPPED
from midstate.common.secrets import say
from midstate.study.planning import OUTPUTS, PlannedRun
from midstate.study.process import LOST, exit_status, start_train
from midstate.study.turns import is_held, turn

LOGS = OUTPUTS / "reproduce"
SECONDS = 0.5  # the main thread waits at most so long between two checks for signals
UNWATCHED = ("machine.figures=false",)  # nobody looks at the figures of single runs of a sweep


@dataclass
class Sweep:
    """The runs in progress, and the reason of each failure."""

    stopping: threading.Event = field(default_factory=threading.Event)
    processes: dict[Path, BaseProcess] = field(default_factory=dict)
    failures: dict[PlannedRun, str] = field(default_factory=dict)

    def run(self, planned: list[PlannedRun], jobs: int) -> None:
        """Run what is not finished, `jobs` at a time; go on after a failure; begin no run once `stopping` is set."""
        todo = [run for run in planned if not run.finished]
        if not todo:
            return
        bar = tqdm(total=len(todo), unit="run", desc="reproduce", disable=None, smoothing=0.05)
        futures: dict[Path, Future] = {}
        with ThreadPoolExecutor(jobs) as pool, bar:
            for run in todo:  # parents come first, so that no run waits for one that is not yet begun
                before = futures.get(run.parent.directory) if run.parent else None
                futures[run.directory] = pool.submit(self._one, run, before)
            started = time.monotonic()
            for number, done in enumerate(_as_done(futures.values()), start=1):
                bar.update()
                line = done.result()
                if line and bar.disable:
                    left = (time.monotonic() - started) / number * (len(todo) - number) / 60
                    say(f"{number}/{len(todo)} {line}; {left:.0f} min left")
                elif line:
                    bar.set_postfix_str(line, refresh=False)

    def _one(self, run: PlannedRun, before: Future | None) -> str | None:
        """Do one run; return its outcome as a line, None where it was not begun."""
        if before:
            before.result()
        if self.stopping.is_set():
            return None
        if run.parent and not run.parent.finished:
            self.failures[run] = f"not begun: {run.parent.experiment}, which it begins from, is not there"
            return f"{run.name}: {self.failures[run]}"
        try:
            return self._process(run)
        except (OSError, EOFError) as error:  # no process could be begun
            self.failures[run] = str(error) or "the server that runs are forked from has died"
            return f"{run.name}: FAILED, {self.failures[run]}"

    def _process(self, run: PlannedRun) -> str | None:
        log = LOGS / f"{run.experiment}-{run.config_hash}-seed{run.seed}.log"
        while True:
            with turn(log, run.directory, self.stopping) as ours:
                if not ours:
                    return None
                before = log.stat().st_size
                status = 0 if run.finished else self._status(run, log)
            if status != EXIT_BAD_CONFIG or not is_held(run.directory):  # else another process took it: wait
                break
        if status in (0, LOST) and run.finished:
            return f"{run.name}: done"  # no result: nobody is to see one before all seeds of a claim are there
        if status in (EXIT_STOPPED, -signal.SIGTERM) and self.stopping.is_set():
            return f"{run.name}: stopped, goes on next time"
        said = log.read_bytes()[before:].decode(errors="replace")
        lines = [line for line in said.splitlines() if line.strip()]
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self.failures[run] = f"{how}: {lines[-1] if lines else 'no output'} ({log})"
        return f"{run.name}: FAILED, {self.failures[run]}"

    def _status(self, run: PlannedRun, log: Path) -> int:
        """Begin a run, wait for its end, and return its exit status."""
        process = self.processes[run.directory] = start_train([*UNWATCHED, *run.arguments], log)
        if self.stopping.is_set():
            process.terminate()
        status = exit_status(process)
        del self.processes[run.directory]
        return status

    @contextmanager
    def stopped_by_signal(self) -> Iterator[None]:
        """On SIGINT or SIGTERM terminate the runs, which save and end; the caller goes on, with `stopping` set."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping.set()
            for process in list(self.processes.values()):
                process.terminate()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _as_done(futures: Iterable[Future]) -> Iterator[Future]:
    """Yield futures as they end; polls, because a signal just before a wait would not wake the main thread."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, SECONDS, FIRST_COMPLETED)
        yield from done
