"""Optimizers: torch's, with the learning rate as a pure function of the step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn, optim

from midstate.sparsity import checks, steps_of

DECAYS = ("cosine", "constant")


@dataclass(frozen=True)
class Rate:
    """Learning rate over a run: a linear warm-up, then the decay to 0 at the end."""

    lr: float
    decay: str
    warmup_steps: int
    total_steps: int

    def at(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return self.lr
        x = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.lr * (1 + math.cos(math.pi * x)) / 2


class _WithRate:
    """What the optimizers share: checks and the learning rate's course."""

    def __post_init__(self) -> None:
        checks.number("lr", self.lr, 0)
        checks.number("weight_decay", self.weight_decay, 0)
        checks.one_of("decay", self.decay, DECAYS)
        steps_of("warmup", self.warmup, 1, 1)

    def rate(self, steps_per_epoch: int, total_steps: int) -> Rate:
        """Place the learning rate in a run."""
        return Rate(self.lr, self.decay, steps_of("warmup", self.warmup, steps_per_epoch, total_steps), total_steps)


@dataclass(frozen=True)
class SGD(_WithRate):
    """Stochastic gradient descent with momentum; see torch.optim.SGD."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    warmup: float | str
    decay: str

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("momentum", self.momentum, 0, 1)
        checks.boolean("nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum=0: nesterov needs a momentum above 0, or set nesterov=false")

    def create(self, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        """Make the optimizer; the loop sets its learning rate before every step."""
        return optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class AdamW(_WithRate):
    """Adam with decoupled weight decay; see torch.optim.AdamW."""

    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    warmup: float | str
    decay: str

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("beta1", self.beta1, 0, 1 - 1e-9)
        checks.number("beta2", self.beta2, 0, 1 - 1e-9)

    def create(self, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        """Make the optimizer; the loop sets its learning rate before every step."""
        return optim.AdamW(parameters, lr=self.lr, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay)
