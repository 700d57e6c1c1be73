"""first_run: time and memory of the main command of the README, the first one after installation."""

from statistics import median
from typing import Any

from benchmarks.common import timed_process
from midstate.common.project import ROOT

COMMAND = ("pruner=nm_block", "schedule=cubic")


def measure(repeats: int) -> list[dict[str, Any]]:
    """Run the main command once for each of `repeats` seeds; one row a seed, and the median."""
    rows = []
    for seed in range(repeats):
        done = timed_process([str(ROOT / "train.py"), *COMMAND, f"seed={seed}"])
        (summary,) = done["summaries"]
        rows.append(
            {
                "seed": seed,
                "wall seconds": round(done["seconds"], 1),
                "peak memory (GiB)": round(done["peak_gib"], 2),
                "top-1 at 1:16 (%)": round(summary["top1"], 2),
                "pattern verified": summary["pattern_verified"],
            }
        )
    middle = {key: round(median(row[key] for row in rows), 2) for key in list(rows[0])[1:4]}
    return [*rows, {"seed": "median", **middle, "pattern verified": all(row["pattern verified"] for row in rows)}]
