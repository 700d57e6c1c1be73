"""Optimizers: torch's, with the learning rate as a pure function of the step."""

import logging
import math
from dataclasses import dataclass, field
from inspect import unwrap
from itertools import pairwise
from typing import Any

import torch
from torch import nn, optim

from midstate.common import training_limits
from midstate.common.times import steps_of, warn_if_longer
from midstate.common.uncompiled import uncompiled

log = logging.getLogger(__name__)


def _uncompiled(kind: type[optim.Optimizer]) -> type[optim.Optimizer]:
    """Derive an optimizer without the wrappers of torch's compiler; `trainer.compile` compiles the network only."""
    own = type(kind.__name__, (kind,), {"step": torch.no_grad()(unwrap(kind.step))})
    return uncompiled(own, "add_param_group", "zero_grad", "state_dict", "load_state_dict")


_SGD, _AdamW = _uncompiled(optim.SGD), _uncompiled(optim.AdamW)


@dataclass(frozen=True)
class Rate:
    """Learning rate over a run: a linear warm-up, then the decay.

    Args:
        lr: rate after the warm-up.
        decay: `cosine` (to 0 at the end), `constant`, or `steps` (multiplied by a factor from each milestone on).
        warmup_steps: optimizer steps of the warm-up.
        total_steps: optimizer steps of the run.
        factors: for decay=steps, each factor by the step from which it applies.
        every: number of steps between two changes of the rate.
    """

    lr: float
    decay: str
    warmup_steps: int
    total_steps: int
    factors: dict[int, float] = field(default_factory=dict)
    every: int = 1

    def at(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        step -= step % self.every
        if step < self.warmup_steps:
            return min(self.lr, self.lr * (step + self.every) / self.warmup_steps)
        if self.decay == "constant":
            return self.lr
        if self.decay == "steps":
            return self.lr * math.prod(factor for start, factor in self.factors.items() if step >= start)
        x = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.lr * (1 + math.cos(math.pi * x)) / 2


@dataclass(frozen=True, kw_only=True)
class _Optimizer:
    """Settings of every optimizer: the learning rate over the run, and which parameters decay.

    Args:
        lr: learning rate, 0 or more.
        weight_decay: coefficient, 0 or more.
        warmup: its length, as a share of the run, epochs or steps.
        decay: see `Rate`.
        milestones: for decay=steps, the times at which the rate changes, written as `warmup`, in ascending order.
        factors: for decay=steps, factor of the rate at each milestone; one number, or a list with one for each.
        every: time between two changes of the rate: steps ('1it') or epochs ('1ep').
        weight_decay_1d: whether parameters of one dimension (biases, BatchNorm's) decay, too.
    """

    lr: float
    weight_decay: float
    warmup: float | str
    decay: str
    milestones: list[float | str] = field(default_factory=list)
    factors: float | list[float] = training_limits.FACTOR
    every: str = "1it"
    weight_decay_1d: bool = True

    def rate(self, steps_per_epoch: int, total_steps: int) -> Rate:
        """Place the learning rate in a run.

        Raises:
            ValueError: the milestones are not strictly ascending.
        """
        starts = [steps_of("milestones", each, steps_per_epoch, total_steps) for each in self.milestones]
        if any(later <= earlier for earlier, later in pairwise(starts)):
            raise ValueError(f"milestones={self.milestones}: must come one after another; here they are steps {starts}")
        if starts and starts[-1] >= total_steps:
            log.warning(f"warning: optimizer.milestones={self.milestones}: some lie after the run's last step")
        warmup, every = (
            steps_of(name, getattr(self, name), steps_per_epoch, total_steps) for name in ("warmup", "every")
        )
        warn_if_longer("optimizer.warmup", self.warmup, warmup, total_steps, f"the rate does not come to lr={self.lr}")
        warn_if_longer("optimizer.every", self.every, every, total_steps, "the rate is set once")
        factors = self.factors if isinstance(self.factors, list) else [self.factors] * len(starts)
        return Rate(
            self.lr,
            self.decay,
            warmup,
            total_steps,
            dict(zip(starts, factors, strict=True)) if self.decay == "steps" else {},
            max(1, every),
        )

    def _groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """A model's parameters: in one group, or those of at most one dimension in a second group without decay."""
        parameters = list(model.parameters())
        if self.weight_decay_1d:
            return [{"params": parameters}]
        groups = [{"params": [p for p in parameters if p.dim() > 1]}]
        return [*groups, {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}]


@dataclass(frozen=True, kw_only=True)
class SGD(_Optimizer):
    """Stochastic gradient descent with momentum; see torch.optim.SGD."""

    momentum: float
    nesterov: bool

    def __post_init__(self) -> None:
        training_limits.sgd(vars(self))

    def create(self, model: nn.Module) -> optim.Optimizer:
        """Make the optimizer of a model's parameters; the loop sets its learning rate before every step."""
        return _SGD(
            self._groups(model),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True, kw_only=True)
class AdamW(_Optimizer):
    """Adam with decoupled weight decay; see torch.optim.AdamW."""

    beta1: float
    beta2: float

    def __post_init__(self) -> None:
        training_limits.adamw(vars(self))

    def create(self, model: nn.Module) -> optim.Optimizer:
        """Make the optimizer of a model's parameters; the loop sets its learning rate before every step."""
        betas = (self.beta1, self.beta2)
        return _AdamW(self._groups(model), lr=self.lr, betas=betas, weight_decay=self.weight_decay)
