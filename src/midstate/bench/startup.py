"""startup: how soon `train.py --help` answers, beside what importing torch alone costs."""

from statistics import median
from typing import Any

from midstate.bench.common import ROOT, timed_process

WAYS = {
    "train.py --help": [str(ROOT / "train.py"), "--help"],
    "train.py --cfg job": [str(ROOT / "train.py"), "--cfg", "job"],
    "import torch": ["-c", "import torch"],
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
