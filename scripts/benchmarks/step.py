"""step: what a training step of each method costs, in steps of the dense network, and images a second.

The wide ResNet-18, 32x32, batch 64, 1:16 (weights at a density of 1/16, half of the filters), in the middle of the ramp
where a method has one. Beside them, in hand-written loops that do nothing but forward, backward and update: the dense
network, and SR-STE as it is published, which sorts every group in every forward pass. All are prepared in one process
and take their steps in turn, so that every figure is a ratio to the dense step of the same turn.
"""

import os
from collections.abc import Sequence
from itertools import cycle
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from benchmarks.common import prepared, timed
from midstate.engine.session import Session
from midstate.engine.step import train_step

SETTINGS = {
    "fp32": (),
    "bf16, channels last": ("trainer.precision=bf16", "trainer.channels_last=true"),
}
SIZE = ("model=resnet18", "data=fake", "logger=none")
LENGTH = (f"trainer.threads={os.cpu_count()}", "trainer.batch_size=64", "trainer.epochs=100", "trainer.probes=false")
MIDDLE = 0.4  # share of the run at which steps are timed: no ramp has ended
N, M = 1, 16
NM = (f"pruner.n={N}", f"pruner.m={M}")
METHODS = {
    "nm": ("pruner=nm", *NM),
    "nm_block": ("pruner=nm_block", "schedule=linear", *NM),
    "nm_step": ("pruner=nm_step", "schedule=linear", *NM),
    "maxq": ("pruner=maxq", "schedule.stop=0.75", *NM),  # its own ramp would have ended
    "magnitude": ("pruner=magnitude", "schedule=cubic", "pruner.sparsity=0.9375"),
    "filter": ("pruner=filter", "schedule=cubic", "pruner.sparsity=0.5"),
}
CIFAR_STEPS = 782  # steps of an epoch of 50,000 images, which share one refresh
PUBLISHED = "SR-STE, published loop"


def measure(
    repeats: int, methods: Sequence[str] = tuple(METHODS), settings: Sequence[str] = ("fp32",)
) -> list[dict[str, Any]]:
    """One row a way of training, refresh interval and setting."""
    ways: dict[tuple[str, str], Way] = {("fp32", PUBLISHED): _Published(*SETTINGS["fp32"])}
    for setting in settings:
        overrides = SETTINGS[setting]
        ways[setting, "dense"] = Way("pruner=dense", *overrides)
        ways[setting, "dense, bare loop"] = _Bare(*overrides)
        for name in methods:
            ways[setting, name] = Way(*METHODS[name], *overrides)
    for _ in range(repeats):
        for way in ways.values():
            way.take()
    published = ways["fp32", PUBLISHED].seconds
    rows = []
    for (setting, name), way in ways.items():
        if setting not in settings:
            continue
        dense = ways[setting, "dense"].seconds
        for refresh, interval in way.intervals.items():
            rows.append(
                {
                    "settings": setting,
                    "pruner": name,
                    "refresh": refresh,
                    "interval": interval,
                    "refresh_ratio": round(ratio(way.refreshes, dense), 3),
                    "ratio_to_dense": round(ratio(way.each(interval), dense), 3),
                    "images_per_second": round(way.session.batches.batch_size / median(way.each(interval)), 1),
                    "times_published": round(ratio(published, way.each(interval)), 2),
                }
            )
    return rows


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a way of training, its refresh intervals side by side."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(
            (row["settings"], row["pruner"]), {"settings": row["settings"], "training": row["pruner"]}
        )
        line[row["refresh"].replace("_", " ")] = row["ratio_to_dense"]
        line.setdefault("images/s", row["images_per_second"])
        line.setdefault("times published", row["times_published"])
    columns = dict.fromkeys(next(line for line in lines.values() if "every step" in line), "")
    return [{**columns, **line} for line in lines.values()]


def ratio(seconds: list[float], base: list[float]) -> float:
    """Return the median over turns of the ratio within a turn: a machine that is slow for a while is so for both."""
    return median(one / other for one, other in zip(seconds, base, strict=True))


class Way:
    """One way of training; every `take` times a refresh of its masks and a step."""

    def __init__(self, *overrides: str) -> None:
        self.session: Session = prepared(*SIZE, *LENGTH, *overrides)
        self.session.step = int(MIDDLE * self.session.total_steps)
        self.images = cycle(list(self.session.batches.epoch(0, 0)))
        self.seconds: list[float] = []  # of steps, without the refresh
        self.refreshes: list[float] = []
        if self.session.quantizer:
            self.session.quantizer.refresh(self.session.step)  # its bits come into force
        self.session.model.train()
        self.take()  # warms up
        self.seconds, self.refreshes = [], []

    @property
    def intervals(self) -> dict[str, int]:
        """Steps between two refreshes, by name; an epoch has as many as CIFAR's."""
        if self.session.pruner.method.dense:
            return {"default": 1}  # nothing is refreshed
        every = self.session.pruner.refresh_steps.every
        default = CIFAR_STEPS if every == self.session.batches.steps_per_epoch else every
        return {"default": default, "every_step": 1, "every_epoch": CIFAR_STEPS}

    def take(self) -> None:
        """Time a refresh and a step."""
        self.refreshes.append(timed(lambda: self.session.pruner.refresh(self.session.step)))
        images, labels = next(self.images)
        self.seconds.append(timed(lambda: self.step(images, labels)))

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take the trainer's step, without a refresh."""
        train_step(self.session, images, labels)

    def each(self, interval: int) -> list[float]:
        """Return the seconds of each step plus 1 / interval of a refresh."""
        return [step + refresh / interval for step, refresh in zip(self.seconds, self.refreshes, strict=True)]


class _Bare(Way):
    """Nothing but forward, backward and update, with the same settings."""

    def __init__(self, *overrides: str) -> None:
        super().__init__("pruner=dense", *overrides)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take a step as anybody would write it."""
        settings, optimizer = self.session.settings, self.session.optimizer
        with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = F.cross_entropy(self.session.model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class _Published(_Bare):
    """SR-STE's published way (Zhou et al., arXiv 2102.04010): masks by argsort and scatter in every forward pass."""

    def __init__(self, *overrides: str) -> None:
        super().__init__(*overrides)
        for module in self.session.model.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels % M == 0:
                parametrize.register_parametrization(module, "weight", _SortedEveryTime())


class _SortedEveryTime(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return _SortedSRSTE.apply(weight)


class _SortedSRSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        positions_first = weight.permute(0, 2, 3, 1)
        groups = positions_first.abs().reshape(-1, M)
        dropped = groups.argsort(dim=1)[:, : M - N]
        mask = torch.ones_like(groups).scatter_(1, dropped, 0).reshape(positions_first.shape).permute(0, 3, 1, 2)
        ctx.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        weight, mask = ctx.saved_tensors
        return gradient + 2e-4 * (1 - mask) * weight
