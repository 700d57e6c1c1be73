"""From a composed configuration to a plan: bad configurations are refused here, before anything is written."""

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
from midstate.config.overrides import typed_overrides
from midstate.config.schema import check_root
from midstate.distributed.environment import started_by_torchrun, world_size
from midstate.quantization import BitScheme
from midstate.runs.files import FORMAT, read_summary
from midstate.runs.find import checkpoint_identity, find_checkpoint, find_file, find_like
from midstate.runs.identity import NUMERICS, config_hash, local_sources
from midstate.runs.parts import Parts, build_parts
from midstate.runs.warnings import warn_without_effect
from midstate.sparsity import Allocation, Scheme


@dataclass(frozen=True)
class Plan:
    """A configuration, checked and resolved, with the objects that it names; never changed afterwards."""

    config: dict[str, Any]  # resolved, every `auto` replaced
    parts: Parts
    typed: list[str]  # overrides, as the user wrote them
    choices: dict[str, str]  # the chosen member of each group
    name: str  # of the experiment, or the pruner and the quantizer
    directory: Path
    hash: str
    checkpoint: Path | None  # the weights to begin with
    allowed: int | None  # budget of a narrower network: parameters or multiply-accumulates of the run `pruner.like`

    @classmethod
    def of(cls, config: DictConfig) -> "Plan":
        """Check a configuration and build its parts.

        Raises:
            ConfigError: something in the configuration cannot work.
        """
        typed = typed_overrides()
        check_root(config, typed, HydraConfig.get().runtime.choices)
        config, scheme_of = _with_scheme_of_runs(config)
        parts = build_parts(config)
        _check_trained(parts)
        resolved = resolve(config, parts, scheme_of)
        allowed, checkpoint = _from_other_runs(parts, resolved)
        choices = {key: str(value) for key, value in HydraConfig.get().runtime.choices.items() if value is not None}
        name = choices.get("experiment", _name(choices, parts))
        identity = config_hash(resolved)
        directory = _directory(config, name, identity)
        warn_without_effect(typed, parts)
        return cls(resolved, parts, typed, choices, name, directory, identity, checkpoint, allowed)

    @property
    def seed(self) -> int:
        """The seed that all others come from."""
        return self.config["seed"]

    @property
    def rerun(self) -> bool:
        """Tell whether to start over."""
        return self.config["rerun"]

    @property
    def model_name(self) -> str:
        """The network's own name where a group holds many of them, as timm and torchvision do."""
        return str(self.config["model"].get("name") or self.choices["model"])

    @property
    def title(self) -> str:
        """The run in one line: network, data, name, schedule, seed, and the other overrides as typed."""
        told = ("model=", "model.name=", "data=", "pruner=", "schedule=", "experiment=", "seed=")
        silent = ("run_dir=", "rerun=", "logger", "launcher=", "machine.", "hydra")
        more = [word for word in self.typed if not word.lstrip("+~").startswith((*told, *silent))]
        words = (self.model_name, self.choices["data"], self.name, self.choices["schedule"], f"seed{self.seed}", *more)
        return redact(" ".join(words))

    def made_from(self) -> dict[str, Any]:
        """Name of the network, chosen members, and overrides as typed; secrets are replaced."""
        members = {group: name for group, name in self.choices.items() if not group.startswith("hydra/")}
        return redact({"model_name": self.model_name, "choices": members, "overrides": self.typed})

    def facts(self) -> dict[str, Any]:
        """Fields of the summary that are known before training."""
        trainer = self.parts.trainer
        return {
            "format": FORMAT,
            "config_hash": self.hash,
            "numerics": NUMERICS,
            "seed": self.seed,
            **{key: self.choices[key] for key in ("model", "data", "pruner", "schedule")},
            **self.made_from(),
            "epochs": trainer.epochs,
            "device": trainer.device,
            "threads": trainer.threads,
            "torch": torch.__version__,
            "git": git_commit(),
        }


def resolve(config: DictConfig, parts: Parts, scheme_of: str | None = None) -> dict[str, Any]:
    """Return the configuration with every reference and `auto` replaced by its value.

    Args:
        config: composed.
        parts: built from it.
        scheme_of: config hash of the runs that the scheme is taken from; None: of no runs.
    """
    resolved, trainer = OmegaConf.to_container(config, resolve=True), parts.trainer
    resolved["trainer"] |= {name: getattr(trainer, name) for name in ("device", "threads", "precision")}
    resolved["trainer"]["num_processes"] = world_size()
    resolved["pruner"] |= _digests(parts.method.allocation)
    if scheme_of:
        resolved["pruner"] |= {"scheme_of": scheme_of}
        resolved["pruner"].pop("scheme_digest", None)
    if parts.quantization is not None:
        with user_errors("quantizer"):
            latency = parts.quantization.latencies()
            resolved["quantizer"] |= _digests(parts.quantization.allocation)
        resolved["quantizer"] |= {} if latency is None else {"latency_digest": latency.digest()}
    # A member's `revision` is raised when only its losses change (NUMERICS: those of many); it counts above 1.
    for group, method in (("pruner", parts.method), ("quantizer", parts.quantization)):
        members = method.members.items() if method else ()
        if revisions := {axis: member.revision for axis, member in members if getattr(member, "revision", 1) > 1}:
            resolved[group]["revisions"] = revisions
    if sources := local_sources(resolved):  # an edited formula is another run
        resolved["local"] = sources
    return resolved


def _digests(allocation: Allocation) -> dict[str, str]:
    """Digest of the file that an allocation reads; the file's path does not count, see `identity.IRRELEVANT`."""
    if isinstance(allocation, Scheme | BitScheme):
        return {"scheme_digest": allocation.digest()}
    table = getattr(allocation, "table", None)
    return {} if table is None else {"scores_digest": table.digest()}


def runs_with_schemes(config: DictConfig) -> str | None:
    """Return `pruner.scheme` if it names a directory of runs, and neither a file nor a path in .json; else None."""
    place = config.pruner.get("scheme")
    is_runs = isinstance(place, str) and place and Path(place).suffix != ".json" and not Path(place).is_file()
    return place if is_runs else None


def _with_scheme_of_runs(config: DictConfig) -> tuple[DictConfig, str | None]:
    """Replace a directory of runs in `pruner.scheme` by the scheme's file; also return those runs' config hash."""
    place = runs_with_schemes(config)
    if not place:
        return config, None
    with user_errors("pruner"):
        file = find_file("scheme", place, "scheme.json", OmegaConf.to_container(config, resolve=True))
    found = OmegaConf.merge(config, {"pruner": {"scheme": str(file)}})
    return found, read_summary(file.parent)["config_hash"]


def _from_other_runs(parts: Parts, resolved: dict[str, Any]) -> tuple[int | None, Path | None]:
    """Find the budget and the checkpoint taken from other runs; write those runs' identities into `resolved`."""
    allowed = checkpoint = None
    if parts.narrow is not None:
        with user_errors("pruner"):
            parts.narrow.check(parts.model)
            if parts.narrow.like is not None:
                allowed, resolved["pruner"]["like_of"] = find_like(parts.narrow, resolved)
    if parts.model.checkpoint is not None:
        with user_errors("model"):
            checkpoint = find_checkpoint(parts.model.checkpoint, resolved)
        resolved["model"]["checkpoint_of"] = checkpoint_identity(checkpoint, resolved["seed"])
    return allowed, checkpoint


def _check_trained(parts: Parts) -> None:
    """Refuse to finetune a network that begins untrained."""
    model = parts.model
    if parts.trainer.mode == "finetune" and model.checkpoint is None and not getattr(model, "pretrained", False):
        raise ConfigError(
            "trainer.mode=finetune: begins from trained weights, and there are none; give them by "
            "model.checkpoint=outputs/dense (a file, or the runs of a dense experiment) or model.pretrained=true, or "
            "train dense first in the same run: trainer.mode=train schedule.start=0.5"
        )


def _name(choices: dict[str, str], parts: Parts) -> str:
    """Name a run without an experiment by pruner and quantizer; outputs/dense holds only runs at 32 bits."""
    pruner, quantizer = choices["pruner"], choices.get("quantizer")
    if parts.quantization is None or quantizer is None:
        return pruner
    return quantizer if parts.method.dense else f"{pruner}_{quantizer}"


def _directory(config: DictConfig, name: str, identity: str) -> Path:
    """Choose and check the directory of the run."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ConfigError(f"{name}: the name of a run must not lead out of outputs/")
    multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    if started_by_torchrun() and multirun:
        raise ConfigError("torchrun: all its processes do one run together; start a multirun without it")
    if config.run_dir is not None and multirun:
        raise ConfigError(f"run_dir={config.run_dir}: the jobs of a multirun have a directory each; leave it out")
    directory = Path(config.run_dir or Path("outputs", name, identity, f"seed{config.seed}"))
    _check_writable(directory)
    return directory


def _check_writable(directory: Path) -> None:
    """Refuse a directory that cannot be made or written, or whose name contains a secret."""
    if redact(str(directory)) != str(directory):
        raise ConfigError(f"run_dir={redact(str(directory))}: must not contain a secret")
    existing = next(path for path in (directory, *directory.parents, Path.cwd()) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"run_dir={directory}: must be a directory that can be written; {existing} is not")
