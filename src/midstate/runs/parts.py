"""The objects that a configuration names, with every `auto` replaced."""

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig

from midstate.common.errors import ConfigError, user_errors
from midstate.config.building import build
from midstate.distributed.environment import local_rank, local_size, started_by_torchrun
from midstate.distributed.machine import fast_at_bfloat16
from midstate.engine.settings import Trainer
from midstate.models import Narrow
from midstate.quantization import Quantization
from midstate.runs.tracking import Wandb
from midstate.sparsity import Method, Schedule

# Attributes that each part must have, whatever its class; the first one identifies its kind.
KINDS = {
    "model": ("create", "checkpoint"),
    "data": ("load", "embedded", "augmentation"),
    "schedule": ("window",),
    "optimizer": ("create", "rate"),
    "trainer": ("checkpoint_every",),
}
AXES = {
    "scope": "resolve",
    "pattern": "mask",
    "criterion": "score",
    "allocation": "allocate",
    "path": "masks",
    "update": "resolve",
    "estimator": "apply",
    "penalty": "add",
}


@dataclass(frozen=True)
class Parts:
    """The objects of a run that come from its configuration; none has seen data."""

    model: Any  # makes a network: `create`, `checkpoint`
    data: Any  # loads images: `load`, `embedded`
    schedule: Schedule
    method: Method
    narrow: Narrow | None  # budget of a narrower network; None: full width
    optimizer: Any  # makes an optimizer: `create`, `rate`
    trainer: Trainer  # without any `auto`
    logger: Wandb | None
    quantization: Quantization | None  # None: 32 bits
    device: torch.device


def build_parts(config: DictConfig) -> Parts:
    """Build the object of each configuration group, and the method from the pruner's axes.

    Raises:
        ConfigError: a constructor refuses its settings, parts do not fit together, or this machine lacks the device.
    """
    groups = ("model", "data", "schedule", "pruner", "optimizer", "trainer", "logger")
    built = {group: build(config, group) for group in groups}
    quantizer = None if config.quantizer is None else build(config, "quantizer")
    _check_kinds(built)
    axes = built.pop("pruner")
    with user_errors("pruner"):
        method = Method(**{axis: axes.get(axis) for axis in AXES})
    quantization = None if quantizer is None else _method_of(quantizer)
    trainer, device = _decided(built.pop("trainer"), built["data"].embedded, config.machine.device_index)
    _check_together(method, quantization, trainer)
    if trainer.recovery and not getattr(built["data"], "num_unused", 0):
        raise ConfigError(
            "trainer.recovery=true: is measured on training images that no run sees, and these data keep none "
            "(data.num_unused); data=mnist, fashion_mnist and kmnist do"
        )
    return Parts(
        **built, method=method, quantization=quantization, narrow=axes.get("narrow"), trainer=trainer, device=device
    )


def _method_of(quantizer: dict[str, Any]) -> Quantization:
    """Return the method that a quantizer's configuration file builds from its axes."""
    method = quantizer.get("method") if isinstance(quantizer, dict) else None
    if not isinstance(method, Quantization):
        raise ConfigError("quantizer: builds no method; its file needs `method: default` among its defaults")
    return method


def _check_together(method: Method, quantization: Quantization | None, trainer: Trainer) -> None:
    """Refuse a pruner that moves quantised weights off the grid or permutes them, and fp16 with unscaled gradients."""
    if quantization is None:
        return
    if not method.dense and method.estimator.scales:
        raise ConfigError(
            f"quantizer: pruner/estimator={type(method.estimator).__name__} scales kept weights, so that the finished "
            "ones would not be on the grid; choose pruner/estimator=sr_ste, hard or ste"
        )
    if method.permutes:
        raise ConfigError(
            "quantizer: pruner.permute=true gives filters other places, and what a quantizer keeps of each would stay; "
            "use pruner.permute=false"
        )
    learned = (quantization.estimator, *([quantization.activation] if quantization.quantises_inputs else []))
    if trainer.precision == "fp16" and not all(each.scaled_gradients for each in learned):
        raise ConfigError(
            "trainer.precision=fp16: scales gradients, and the correction of quantizer/estimator=ddq is not scaled "
            "with them; choose bf16 or fp32"
        )


def _check_kinds(built: dict[str, Any]) -> None:
    """Refuse a group or an axis whose configuration builds no object, or an object of another kind."""
    for name, needed in KINDS.items():
        if isinstance(built[name], dict | None):
            raise ConfigError(f"{name}: builds no {name}; it needs a `_target_` of that kind")
        _check_has(name, built[name], name, needed)
    for axis, method in (*AXES.items(), ("narrow", "budget")):
        part = built["pruner"].get(axis)
        if isinstance(part, dict):
            raise ConfigError(
                f"pruner/{axis}: its file builds no {axis}; it needs `# @package pruner` as its very first line and a "
                f"node `{axis}:` with a `_target_` of that kind"
            )
        if part is not None:
            _check_has(f"pruner/{axis}", part, axis, (method,))


def _check_has(where: str, part: Any, kind: str, needed: tuple[str, ...]) -> None:
    for name in needed:
        if not hasattr(part, name):
            built = f"{type(part).__module__}.{type(part).__qualname__}"
            raise ConfigError(f"{where}: {built} has no `{name}`, which every {kind} has")


def _decided(trainer: Trainer, embedded: bool, device_index: int) -> tuple[Trainer, torch.device]:
    """Replace every `auto`, because device, threads and precision change the numbers; each local process gets a GPU."""
    cuda = trainer.device == "cuda" or (trainer.device == "auto" and torch.cuda.is_available())
    _check_device(trainer, cuda, device_index)
    index = local_rank() if started_by_torchrun() else device_index
    device = torch.device("cuda", index) if cuda else torch.device("cpu")
    threads, precision = trainer.threads, trainer.precision
    if threads == "auto":
        threads = 1 if embedded else max(1, os.cpu_count() // local_size())
    if precision == "auto":
        precision = "bf16" if fast_at_bfloat16(device) else "fp32"
    return replace(trainer, device=device.type, threads=threads, precision=precision), device


def _check_device(trainer: Trainer, cuda: bool, device_index: int) -> None:
    """Refuse devices that this machine does not have."""
    num_devices = torch.cuda.device_count() if cuda else 0
    if cuda and started_by_torchrun() and local_size() > num_devices:
        raise ConfigError(
            f"torchrun: {local_size()} processes, and this machine has {num_devices} CUDA devices; use "
            "--nproc-per-node=gpu, or trainer.device=cpu"
        )
    if not cuda and trainer.sync_batchnorm:
        raise ConfigError("trainer.sync_batchnorm=true: torch has it for CUDA devices only; set it to false")
    if cuda and not 0 <= device_index < num_devices:
        raise ConfigError(
            f"machine.device_index={device_index}: this machine has {num_devices} CUDA devices; must be below that, "
            "or trainer.device=cpu"
        )
