"""step: what a training step of each method costs, in steps of the dense network.

The wide ResNet-18, 32x32, batch 64, 1:16 (filters and weights at a density of 1/16), half-way along the ramp where a
method has one. All runs are prepared in one process and take their steps in turn, so that every figure is a ratio.
"""

import os
import time
from itertools import cycle
from statistics import median
from typing import Any

import torch

from midstate.bench.common import prepared
from midstate.engine import Session, train_step

SIZE = ("model=resnet18", "data=fake", "logger=none")
LENGTH = (f"trainer.threads={os.cpu_count()}", "trainer.batch_size=64", "trainer.epochs=100", "trainer.probes=false")
MIDDLE = 0.4  # of the run: no ramp has ended
NM = ("pruner.n=1", "pruner.m=16")
METHODS = {
    "nm": ("pruner=nm", *NM),
    "nm_block": ("pruner=nm_block", "schedule=linear", *NM),
    "nm_step": ("pruner=nm_step", "schedule=linear", *NM),
    "maxq": ("pruner=maxq", "schedule.stop=0.75", *NM),  # else its ramp is over by then
    "magnitude": ("pruner=magnitude", "schedule=cubic", "pruner.sparsity=0.9375"),
    "filter": ("pruner=filter", "schedule=cubic", "pruner.sparsity=0.5"),
}
REFRESH = {"default": (), "every_step": ("pruner.every=1it",), "every_epoch": ("pruner.every=1ep",)}
CIFAR_STEPS = 782  # an epoch of 50,000 images: what one refresh an epoch is shared by


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a method and refresh interval, and the dense step in seconds."""
    dense = _Steps("pruner=dense")
    ways = {
        (name, refresh): _Steps(*overrides, *REFRESH[refresh])
        for name, overrides in METHODS.items()
        for refresh in REFRESH
    }
    for _ in range(repeats):
        dense.take()
        for steps in ways.values():
            steps.take()
    return [
        {
            "pruner": name,
            "refresh": refresh,
            "interval (steps)": steps.interval,
            "refresh_ratio": round(median(steps.refreshes) / median(dense.seconds), 3),
            "ratio_to_dense": round(steps.ratio(dense), 3),
            "dense step (s)": round(median(dense.seconds), 3),
        }
        for (name, refresh), steps in ways.items()
    ]


class _Steps:
    """One run, taking a step at a time, and its masks refreshed a time each as well."""

    def __init__(self, *overrides: str) -> None:
        self.session: Session = prepared(*SIZE, *LENGTH, *overrides)
        self.session.step = int(MIDDLE * self.session.total_steps)
        self.images = cycle(list(self.session.batches.epoch(0, 0)))
        self.seconds: list[float] = []  # of a step whose masks are in place
        self.refreshes: list[float] = []
        self.session.model.train()
        self._step()  # warms up

    @property
    def interval(self) -> int:
        """Steps between two refreshes, those of an epoch being CIFAR's."""
        pruner = self.session.pruner
        if pruner.method.dense:
            return 0
        every = pruner.ticks.every
        return CIFAR_STEPS if every == self.session.batches.steps_per_epoch else every

    def take(self) -> None:
        """Take a refresh and a step."""
        pruner, started = self.session.pruner, time.perf_counter()
        pruner.refresh(self.session.step)
        _wait()
        self.refreshes.append(time.perf_counter() - started)
        self.seconds.append(self._step())

    def ratio(self, dense: "_Steps") -> float:
        """Steps and their share of refreshes, against dense steps."""
        return (median(self.seconds) + median(self.refreshes) / self.interval) / median(dense.seconds)

    def _step(self) -> float:
        images, labels = next(self.images)
        self.session.pruner.refresh(self.session.step)  # the step finds its masks in place
        started = time.perf_counter()
        train_step(self.session, images, labels)
        _wait()
        return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
