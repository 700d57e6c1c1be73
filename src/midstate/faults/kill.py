"""kill: SIGKILL at random moments; the same command goes on until it has finished, to the bits of a run left alone."""

import os
import random
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from midstate.faults.compare import differences
from midstate.reproduce.process import exit_status, start_train

METHODS = ("nm_block", "nm_step", "maxq", "sfp")
PRECISIONS = ("fp32", "bf16")
# Real digits, eight epochs of eight steps, a checkpoint in the middle of an epoch too.
JOB = (
    *("data=digits", "data.augmentation.crop_padding=1", "model=resnet8", "logger=none"),
    *("trainer.epochs=8", "trainer.max_steps_per_epoch=8", "trainer.checkpoint_every=3it"),
)
KILLS = 3  # of one run at most: then it is left to finish


def measure(times: int, seed: int) -> list[dict[str, Any]]:
    """Kill `times` runs, in turn over methods and precisions; one row a method and precision."""
    chance = random.Random(seed)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        kinds = {}
        for method in METHODS:
            for precision in PRECISIONS:
                job = [*JOB, f"pruner={method}", f"trainer.precision={precision}"]
                started = time.perf_counter()
                _run(job, Path(place, f"{method}-{precision}"))
                row = {"method": method, "precision": precision, "runs": 0, "kills": 0, "not bit-equal": 0}
                kinds[method, precision] = (job, time.perf_counter() - started, row)
                rows.append(row)
        for turn in tqdm(range(times), "kills", disable=None):
            method, precision = list(kinds)[turn % len(kinds)]
            job, seconds, row = kinds[method, precision]
            directory = Path(place, "killed")
            row["runs"] += 1
            for _ in range(KILLS):
                if not _killed(job, directory, chance.uniform(0, seconds)):
                    break
                row["kills"] += 1
            _run(job, directory)
            if found := differences(directory, Path(place, f"{method}-{precision}")):
                row["not bit-equal"] += 1
                print(f"{method} {precision}: {', '.join(found)}")
            shutil.rmtree(directory)
    return rows


def _run(job: list[str], directory: Path) -> None:
    log = directory.with_suffix(".log")
    status = exit_status(start_train([*job, f"run_dir={directory}"], log))
    if status:
        raise RuntimeError(f"status {status}: {log.read_text()[-2000:]}")


def _killed(job: list[str], directory: Path, after: float) -> bool:
    """Start a run and kill it after some seconds; False where it had finished before."""
    process = start_train([*job, f"run_dir={directory}"], directory.with_suffix(".log"))
    time.sleep(after)
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    return exit_status(process) == -signal.SIGKILL
