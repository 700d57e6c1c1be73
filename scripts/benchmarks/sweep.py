"""sweep: runs of the default job in an hour: by Hydra's basic launcher, its joblib pool, and forked runs, one at a time
and two.
"""

import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import run_all, timed_process
from midstate.common.project import ROOT

RUNS = 20
ALONE = "forked, as scripts/reproduce.py --jobs 1 does"
JOB = ("pruner=nm_block", "schedule=cubic", "logger=none")


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a way; each repeat runs all of them in turn."""
    ways = {
        "one after another (-m)": [str(ROOT / "train.py"), "-m", *JOB, f"seed=range(0,{RUNS})"],
        "joblib pool (-m launcher=pool)": [
            str(ROOT / "train.py"), "-m", "launcher=pool", *JOB, f"seed=range(0,{RUNS})",
        ],
        ALONE: ["-m", "benchmarks.sweep", "1"],
        "forked, as scripts/reproduce.py --jobs 2 does": ["-m", "benchmarks.sweep", "2"],
    }  # fmt: skip
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, arguments in ways.items():
            seconds[way].append(timed_process(arguments)["seconds"])
    basic, alone = (median(seconds[way]) for way in (next(iter(ways)), ALONE))
    return [
        {
            "way": way,
            "runs an hour": round(3600 * RUNS / median(taken)),
            "times the basic launcher": round(basic / median(taken), 2),
            "times one forked at a time": round(alone / median(taken), 2),
        }
        for way, taken in seconds.items()
    ]


if __name__ == "__main__":
    sys.exit(run_all([([*JOB, f"seed={seed}"], Path(f"{seed}.log")) for seed in range(RUNS)], int(sys.argv[1])))
