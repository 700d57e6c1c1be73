"""kill: SIGKILL at random moments; repeated, the command must finish with the same bits as an undisturbed run."""

import itertools
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from faults.compare import differences
from midstate.study.process import exit_status, start_train

METHODS = ("nm_block", "nm_step", "maxq", "sfp", "lbc")
KINDS = tuple((method, precision) for method in METHODS for precision in ("fp32", "bf16"))
# Real digits, eight epochs of eight steps, a checkpoint in the middle of an epoch too.
JOB = (
    *("data=digits", "data.augmentation.crop_padding=1", "model=resnet8", "logger=none"),
    *("trainer.epochs=8", "trainer.max_steps_per_epoch=8", "trainer.checkpoint_every=3it"),
    *("trainer.probe_images=100", "machine.figures=false"),  # figures are drawn only after all is saved
)
KILLS = 3  # of one run at most; then it may finish


def measure(times: int, seed: int, kinds: Sequence[tuple[str, str]] = KINDS) -> list[dict[str, Any]]:
    """Kill `times` times, in turn over kinds (method, precision); one row a kind."""
    chance, kills = random.Random(seed), 0
    rows = [{"method": m, "precision": p, "runs": 0, "kills": 0, "not bit-equal": 0} for m, p in kinds]
    with tempfile.TemporaryDirectory() as place, tqdm(total=times, desc="kills", disable=None) as bar:
        _run(_job(*kinds[0]), Path(place, "warm"))  # not timed: the first run waits for all imports
        references = [_timed(_job(*kind), Path(place, "-".join(kind))) for kind in kinds]
        for turn in itertools.count():
            if kills >= times:
                return rows
            (method, precision), row = kinds[turn % len(kinds)], rows[turn % len(kinds)]
            reference, seconds = references[turn % len(kinds)]
            directory = Path(place, "killed")
            row["runs"] += 1
            for _ in range(min(KILLS, times - kills)):
                if not _killed(_job(method, precision), directory, chance.uniform(0, seconds)):
                    break
                row["kills"], kills = row["kills"] + 1, kills + 1
                bar.update()
            _run(_job(method, precision), directory)
            if found := differences(directory, reference):
                row["not bit-equal"] += 1
                tqdm.write(f"{method} {precision}: {', '.join(found)}")
            shutil.rmtree(directory)


def _job(method: str, precision: str) -> list[str]:
    return [*JOB, f"pruner={method}", f"trainer.precision={precision}"]


def _timed(job: list[str], directory: Path) -> tuple[Path, float]:
    started = time.perf_counter()
    _run(job, directory)
    return directory, time.perf_counter() - started


def _run(job: list[str], directory: Path) -> None:
    log = directory.with_suffix(".log")
    status = exit_status(start_train([*job, f"run_dir={directory}"], log))
    if status:
        raise RuntimeError(f"status {status}: {log.read_text()[-2000:]}")


def _killed(job: list[str], directory: Path, after: float) -> bool:
    """Start a run and kill it after `after` seconds; return False if it had finished before."""
    process = start_train([*job, f"run_dir={directory}"], directory.with_suffix(".log"))
    time.sleep(after)
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    return exit_status(process) == -signal.SIGKILL
