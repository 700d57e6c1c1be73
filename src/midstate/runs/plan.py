"""From a composed configuration to the objects of a run: what can be refused is refused here, with nothing written."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from midstate.common.errors import ConfigError, user_errors
from midstate.common.project import git_commit
from midstate.common.secrets import redact
from midstate.config.building import build
from midstate.config.overrides import typed_overrides
from midstate.config.schema import check_root
from midstate.distributed.environment import local_rank, local_size, started_by_torchrun, world_size
from midstate.distributed.machine import fast_at_bfloat16
from midstate.runs.directory import FORMAT, read_summary
from midstate.runs.find import checkpoint_identity, find_checkpoint, find_file, find_like
from midstate.runs.identity import NUMERICS, config_hash, local_sources
from midstate.runs.warnings import warn_without_effect
from midstate.sparsity import Method, Scheme

log = logging.getLogger(__name__)
# What each part must have, wherever it comes from: what tells its kind, and what else is asked of it.
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


@dataclass
class Plan:
    """A configuration, checked and resolved, with the objects it names. Nothing is written yet."""

    config: dict[str, Any]  # resolved, every `auto` replaced
    parts: dict[str, Any]  # what the groups build
    choices: dict[str, str]  # the chosen member of each group
    name: str  # of the experiment, or the pruner
    directory: Path
    hash: str

    @classmethod
    def of(cls, config: DictConfig) -> "Plan":
        """Check a configuration and build its parts.

        Raises:
            ConfigError: anything in it that cannot work.
        """
        hydra = HydraConfig.get()
        typed = typed_overrides()
        check_root(config, typed)
        config, scheme_of = _with_scheme_of_runs(config)
        parts = build_parts(config)
        _check_trained(parts)
        resolved = resolve(config, parts, scheme_of)
        if (narrow := parts["pruner"].get("narrow")) is not None:
            with user_errors("pruner"):
                narrow.check(parts["model"])
                if narrow.like is not None:
                    parts["like"], resolved["pruner"]["like_of"] = find_like(narrow, resolved)
        if (checkpoint := parts["model"].checkpoint) is not None:
            with user_errors("model"):
                parts["checkpoint"] = find_checkpoint(checkpoint, resolved)
            resolved["model"]["checkpoint_of"] = checkpoint_identity(parts["checkpoint"], config.seed)
        choices = {key: str(value) for key, value in hydra.runtime.choices.items() if value is not None}
        name = choices.get("experiment", choices["pruner"])
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ConfigError(f"{name}: the name of a run must not lead out of outputs/")
        identity = config_hash(resolved)
        if started_by_torchrun() and hydra.mode == RunMode.MULTIRUN:
            raise ConfigError("torchrun: all its processes do one run together; start a multirun without it")
        if config.run_dir is not None and hydra.mode == RunMode.MULTIRUN:
            raise ConfigError(f"run_dir={config.run_dir}: the jobs of a multirun have a directory each; leave it out")
        directory = Path(config.run_dir or Path("outputs", name, identity, f"seed{config.seed}"))
        _check_writable(directory)
        warn_without_effect(typed, parts)
        return cls(resolved, parts, choices, name, directory, identity)

    @property
    def again(self) -> str:
        """How to go on with this run."""
        return "the same command without rerun=true" if self.config["rerun"] else "the same command"

    def facts(self) -> dict[str, Any]:
        """What the summary says of the run whatever its end."""
        return {
            "format": FORMAT,
            "config_hash": self.hash,
            "numerics": NUMERICS,
            "seed": self.config["seed"],
            **{key: self.choices[key] for key in ("model", "data", "pruner", "schedule")},
            "epochs": self.parts["trainer"].epochs,
            "device": self.config["trainer"]["device"],
            "threads": self.config["trainer"]["threads"],
            "torch": torch.__version__,
            "git": git_commit(),
        }

    @property
    def device(self) -> torch.device:
        """Where the run computes; of several processes on a machine each has a GPU of its own."""
        name = self.config["trainer"]["device"]
        index = local_rank() if started_by_torchrun() else self.config["machine"]["device_index"]
        return torch.device(name, index) if name == "cuda" else torch.device(name)


def build_parts(config: DictConfig) -> dict[str, Any]:
    """Build what the groups name, and the method from the pruner's axes."""
    groups = ("model", "data", "schedule", "pruner", "optimizer", "trainer", "logger")
    parts = {key: build(config, key) for key in groups}
    _check_kinds(parts)
    with user_errors("pruner"):
        parts["method"] = Method(**{axis: parts["pruner"].get(axis) for axis in AXES})
    return parts


def resolve(config: DictConfig, parts: dict[str, Any], scheme_of: str | None = None) -> dict[str, Any]:
    """The configuration with every reference and `auto` replaced by what it stands for.

    Args:
        config: composed.
        parts: built from it.
        scheme_of: identity of the runs that the scheme is taken from.
    """
    resolved = OmegaConf.to_container(config, resolve=True)
    _resolve_auto(resolved, embedded=parts["data"].embedded)
    # What a scheme's file says, or which runs have found it, is part of the run's identity, where it lies is not.
    if scheme_of:
        resolved["pruner"]["scheme_of"] = scheme_of
    elif isinstance(parts["method"].allocation, Scheme):
        resolved["pruner"]["scheme_digest"] = parts["method"].allocation.digest()
    if sources := local_sources(resolved):  # an edited formula is another run
        resolved["local"] = sources
    return resolved


def runs_with_schemes(config: DictConfig) -> str | None:
    """The directory of an experiment's runs whose schemes are to be used, each by the run of the same seed."""
    place = config.pruner.get("scheme")
    is_runs = isinstance(place, str) and place and Path(place).suffix != ".json" and not Path(place).is_file()
    return place if is_runs else None


def _with_scheme_of_runs(config: DictConfig) -> tuple[DictConfig, str | None]:
    """A configuration that names the very file where it named runs, and the identity of those runs."""
    place = runs_with_schemes(config)
    if not place:
        return config, None
    with user_errors("pruner"):
        file = find_file("scheme", place, "scheme.json", OmegaConf.to_container(config, resolve=True))
    found = OmegaConf.merge(config, {"pruner": {"scheme": str(file)}})
    return found, read_summary(file.parent)["config_hash"]


def _check_trained(parts: dict[str, Any]) -> None:
    """Refuse to finetune a network that begins untrained."""
    model = parts["model"]
    if parts["trainer"].mode == "finetune" and model.checkpoint is None and not getattr(model, "pretrained", False):
        raise ConfigError(
            "trainer.mode=finetune: begins from trained weights, and there are none; give them by "
            "model.checkpoint=outputs/dense (a file, or the runs of a dense experiment) or model.pretrained=true, or "
            "train dense first in the same run: trainer.mode=train schedule.start=0.5"
        )


def _check_kinds(parts: dict[str, Any]) -> None:
    """Refuse what a file or an override builds nothing of, or something of another kind."""
    for name, needed in KINDS.items():
        if isinstance(parts[name], dict | None):
            raise ConfigError(f"{name}: builds no {name}; it needs a `_target_` of that kind")
        _check_has(name, parts[name], name, needed)
    for axis, method in (*AXES.items(), ("narrow", "budget")):
        part = parts["pruner"].get(axis)
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


def _resolve_auto(resolved: dict[str, Any], embedded: bool) -> None:
    """Replace every `auto` in place: what decides the numbers is part of a run's identity."""
    trainer, device_index = resolved["trainer"], resolved["machine"]["device_index"]
    if trainer["device"] == "auto":
        trainer["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    if trainer["threads"] == "auto":
        trainer["threads"] = 1 if embedded else max(1, os.cpu_count() // local_size())
    trainer["num_processes"] = world_size()
    if trainer["device"] == "cuda" and started_by_torchrun() and local_size() > torch.cuda.device_count():
        raise ConfigError(
            f"torchrun: {local_size()} processes, and this machine has {torch.cuda.device_count()} CUDA devices; use "
            "--nproc-per-node=gpu, or trainer.device=cpu"
        )
    if trainer["device"] != "cuda" and trainer["sync_batchnorm"]:
        raise ConfigError("trainer.sync_batchnorm=true: torch has it for CUDA devices only; set it to false")
    if trainer["device"] == "cuda" and not 0 <= device_index < torch.cuda.device_count():
        raise ConfigError(
            f"trainer.device=cuda, machine.device_index={device_index}: this machine has {torch.cuda.device_count()} "
            "CUDA devices; use trainer.device=cpu"
        )
    if trainer["precision"] == "auto":
        device = torch.device(trainer["device"], device_index if trainer["device"] == "cuda" else None)
        trainer["precision"] = "bf16" if fast_at_bfloat16(device) else "fp32"


def _check_writable(directory: Path) -> None:
    """Refuse a directory that could not be made or written."""
    if redact(str(directory)) != str(directory):
        raise ConfigError(f"run_dir={redact(str(directory))}: must not tell a secret")
    existing = next(path for path in (directory, *directory.parents, Path.cwd()) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"run_dir={directory}: must be a directory that can be written; {existing} is not")
