"""ranking: one refresh of global rankings over ResNet-50, in time and in memory.

Each allocation runs in a process of its own, so that its peak memory is its own.
"""

import json
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch

from benchmarks.common import ENVIRONMENT
from benchmarks.resident import added, begin_peak

ALLOCATIONS = ("uniform", "erk", "global", "lamp")
STEPS, FIRST = 100, 70  # of the run, and the first that is refreshed at


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
    pruner = sparsity.Pruner(model, method, sparsity.Schedule("linear", 0, 1.0), STEPS, STEPS, classifier="fc")
    weights = [layer.module.parametrizations[layer.tensor_name].original for layer in pruner.layers]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    before = begin_peak()
    refreshes, copies = [], []
    for step in steps(repeats):
        started = time.perf_counter()
        pruner.refresh(step)
        refreshes.append(time.perf_counter() - started)
    peak = added(before)
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
        "memory added (copies of the weights)": "–" if peak is None else round(peak * 2**20 / size, 2),
    }


def steps(repeats: int) -> list[int]:
    """Return the steps to refresh at, within the run: a second refresh in a row at one step does nothing."""
    return [FIRST + repeat % (STEPS - FIRST) for repeat in range(repeats)]


if __name__ == "__main__":
    print(json.dumps(refresh_time(sys.argv[1], int(sys.argv[2]))))
