"""ranking: one refresh of global rankings over ResNet-50, in time and in memory.

Each allocation runs in a process of its own, so that its peak memory is its own.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ENVIRONMENT

ALLOCATIONS = ("uniform", "erk", "global", "lamp")


def measure(repeats: int) -> list[dict[str, Any]]:
    """Time `repeats` refreshes for each allocation; one row an allocation."""
    rows = []
    for name in ALLOCATIONS:
        command = [sys.executable, "-m", "benchmarks.ranking", name, str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
        rows.append(json.loads(done.stdout))
    return rows


def refresh_time(name: str, repeats: int) -> dict[str, Any]:
    """Return the median seconds of a refresh, also over a plain copy of the weights, and the peak memory it added."""
    import torch
    from torchvision.models import resnet50

    from midstate import sparsity

    allocations = {
        "uniform": sparsity.Uniform,
        "erk": sparsity.ERK,
        "global": sparsity.Global,
        "lamp": sparsity.LAMP,
    }
    torch.manual_seed(0)
    model = resnet50()
    scope = sparsity.Scope(skip_first=False, skip_classifier=False)
    method = sparsity.Method(
        scope,
        sparsity.Weight(0.9),
        sparsity.L1(),
        allocations[name](),
        sparsity.Density(),
        sparsity.Update(),
        sparsity.Hard(),
    )
    pruner = sparsity.Pruner(model, method, sparsity.Schedule("linear", 0, 1.0), 100, 100, classifier="fc")
    weights = [layer.module.parametrizations[layer.tensor_name].original for layer in pruner.layers]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is in use now (Linux)
    before = _peak_bytes()
    refreshes, copies = [], []
    for repeat in range(repeats):
        started = time.perf_counter()
        pruner.refresh(70 + repeat)  # a second refresh at the same step does nothing
        refreshes.append(time.perf_counter() - started)
    peak = _peak_bytes() - before
    for _ in range(repeats):
        started = time.perf_counter()
        for weight in weights:
            weight.detach().clone()
        copies.append(time.perf_counter() - started)
    return {
        "allocation": name,
        "weights (millions)": round(size / 4e6, 1),
        "seconds a refresh": round(median(refreshes), 3),
        "times a copy": round(median(refreshes) / median(copies), 1),
        "memory added (copies of the weights)": round(peak / size, 2),
    }


def _peak_bytes() -> int:
    """Return the largest resident memory since the last reset, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(refresh_time(sys.argv[1], int(sys.argv[2]))))
