"""sweep: how many runs of the default job an hour has: Hydra's basic launcher, its joblib pool, and reproduce.py."""

import sys
from pathlib import Path
from statistics import median
from typing import Any

from midstate.bench.common import ROOT, timed_process

RUNS = 20
JOB = ("pruner=nm_block", "schedule=cubic", "logger=none")


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a way; each repeat runs all of them in turn."""
    ways = {
        "one after another (-m)": [str(ROOT / "train.py"), "-m", *JOB, f"seed=range(0,{RUNS})"],
        "joblib pool (-m launcher=pool)": [
            str(ROOT / "train.py"), "-m", "launcher=pool", *JOB, f"seed=range(0,{RUNS})",
        ],
        "scripts/reproduce.py --jobs 2": ["-m", "midstate.bench.sweep"],
    }  # fmt: skip
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, arguments in ways.items():
            seconds[way].append(timed_process(arguments)["seconds"])
    basic = median(next(iter(seconds.values())))
    return [
        {
            "way": way,
            "runs an hour": round(3600 * RUNS / median(taken)),
            "times the basic launcher": round(basic / median(taken), 2),
        }
        for way, taken in seconds.items()
    ]


def _as_reproduce_does() -> None:
    """The same jobs, each a process of its own forked from one that has imported everything."""
    from concurrent.futures import ThreadPoolExecutor

    from midstate.reproduce.process import exit_status, start_train

    def one(seed: int) -> int:
        return exit_status(start_train([*JOB, f"seed={seed}"], Path(f"{seed}.log")))

    with ThreadPoolExecutor(2) as pool:
        sys.exit(max(map(abs, pool.map(one, range(RUNS)))))


if __name__ == "__main__":
    _as_reproduce_does()
