"""startup: how soon `train.py --help` answers and a run takes its first step, beside what importing torch costs."""

from statistics import median
from typing import Any

from benchmarks.common import timed_process
from midstate.common.project import ROOT

RUN = (str(ROOT / "scripts/benchmarks/first_step.py"), str(ROOT / "train.py"), "pruner=nm_block", "schedule=cubic")
WAYS = {
    "import torch": ["-c", "import torch"],
    "train.py --help": [str(ROOT / "train.py"), "--help"],
    "train.py --cfg job": [str(ROOT / "train.py"), "--cfg", "job"],
    "launch to first training step, without W&B": [*RUN, "logger=none"],
    "launch to first training step": list(RUN),  # last: W&B's own process ends a little later
}


def measure(repeats: int) -> list[dict[str, Any]]:
    """Time each way `repeats` times, interleaved; medians, and their ratio to importing torch."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, arguments in WAYS.items():
            seconds[way].append(timed_process(arguments)["seconds"])
    torch_alone = median(seconds["import torch"])
    return [
        {"what": way, "seconds": round(median(taken), 2), "ratio": round(median(taken) / torch_alone, 2)}
        for way, taken in seconds.items()
    ]
