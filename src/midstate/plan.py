"""From a composed configuration to the objects of a run: what can be refused is refused here, with nothing written."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.amp import GradScaler

from midstate import counting, runs
from midstate.config import ConfigError, build, check_root, redact
from midstate.data import Augmentation, Images
from midstate.engine import Trainer
from midstate.machine import fast_at_bfloat16, keep_freed_memory
from midstate.mixing import Mixing
from midstate.models import checkpoint_identity, classifier_name, find_checkpoint, load_weights
from midstate.probes import NUM_IMAGES, GapProbe
from midstate.processes import ALONE, Processes
from midstate.session import Session
from midstate.sparsity import Blocks, Budget, Direct, Method, Pruner, Sample, Scheme, seed_for, weight_layers
from midstate.torchrun import local_rank, local_size, started_by_torchrun, world_size

log = logging.getLogger(__name__)
SMALL_SCOPE = 0.1
# What each part must be able to do, wherever it comes from.
KINDS = {"model": "create", "data": "load", "schedule": "window", "optimizer": "create", "trainer": "checkpoint_every"}
AXES = {
    "scope": "resolve",
    "pattern": "mask",
    "criterion": "score",
    "allocation": "allocate",
    "path": "masks",
    "update": "resolve",
    "estimator": "apply",
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
        resolved = resolve(config, parts, scheme_of)
        if (checkpoint := parts["model"].checkpoint) is not None:
            with user_errors("model"):
                parts["checkpoint"] = find_checkpoint(checkpoint, resolved)
            resolved["model"]["checkpoint_of"] = checkpoint_identity(parts["checkpoint"], config.seed)
        choices = {key: str(value) for key, value in hydra.runtime.choices.items() if value is not None}
        name = choices.get("experiment", choices["pruner"])
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ConfigError(f"{name}: the name of a run must not lead out of outputs/")
        identity = runs.config_hash(resolved)
        if started_by_torchrun() and hydra.mode == RunMode.MULTIRUN:
            raise ConfigError("torchrun: all its processes do one run together; start a multirun without it")
        if config.run_dir is not None and hydra.mode == RunMode.MULTIRUN:
            raise ConfigError(f"run_dir={config.run_dir}: the jobs of a multirun have a directory each; leave it out")
        directory = Path(config.run_dir or Path("outputs", name, identity, f"seed{config.seed}"))
        _check_writable(directory)
        _warn_without_effect(typed, parts)
        return cls(resolved, parts, choices, name, directory, identity)

    def prepare(self, processes: Processes = ALONE) -> Session:
        """Load the data, make and attach everything; still nothing is written.

        Args:
            processes: that do the run together; each makes its own, and all are the same.

        Raises:
            ConfigError: the parts do not fit each other.
        """
        # As resolved: `auto` is decided.
        settings: Trainer = replace(self.parts["trainer"], precision=self.config["trainer"]["precision"])
        with user_errors("trainer.threads", ValueError, RuntimeError):
            torch.set_num_threads(self.config["trainer"]["threads"])
        keep_freed_memory()
        seed, device = self.config["seed"], self.device
        with user_errors("data"):
            recipe = self.parts["data"]
            fetches = getattr(recipe, "download", False)
            data = (processes.one_after_the_other(recipe.load) if fetches else recipe.load()).to(device)
        torch.manual_seed(seed_for(seed, "initialisation"))
        _check_padding(self.parts["data"].augmentation, data)
        pair = data.train.first(2)
        with user_errors("model", Exception):  # what other libraries raise for their own arguments
            model = self.parts["model"].create(data.shape[0], data.num_classes).to(device)
        with user_errors("model", ValueError, TypeError, RuntimeError, AssertionError):
            if "checkpoint" in self.parts:
                load_weights(model, self.parts["checkpoint"])
            # A CPU's convolutions lay out weights anew anyhow, and groups of N:M are cut sooner as they are.
            if settings.channels_last and device.type == "cuda":
                model = model.to(memory_format=torch.channels_last)
            if settings.sync_batchnorm and processes.distributed:
                model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            uses = counting.weight_uses(model, pair.images)  # also shows that model and images fit
        torch.manual_seed(seed_for(seed, "dropout", *([processes.rank] if processes.rank else [])))
        if settings.batch_size > len(data.train):
            log.warning(
                f"warning: trainer.batch_size={settings.batch_size}: there are only {len(data.train)} training images; "
                "all of them are one batch"
            )
        batches = data.train.training(
            settings.batch_size,
            self.parts["data"].augmentation,
            seed,
            settings.max_steps_per_epoch,
            processes.rank,
            processes.size,
        )
        _check_parts(settings, batches.batch_size, processes.size)
        total_steps = settings.epochs * batches.steps_per_epoch
        first = data.train.first(NUM_IMAGES)
        with user_errors("pruner and schedule"):
            pruner = Pruner(
                model,
                self.parts["method"],
                self.parts["schedule"],
                batches.steps_per_epoch,
                total_steps,
                seed_for(seed, "pruning"),
                classifier_name(model),
                uses,
                Sample(first.images, first.labels),
            )
        _warn_of_scope(pruner, model, uses)
        _warn_of_end(pruner, total_steps)
        with user_errors("optimizer"):
            optimizer = self.parts["optimizer"].create(model)
            rate = self.parts["optimizer"].rate(batches.steps_per_epoch, total_steps)
        probing = settings.probes and not pruner.method.dense
        forward = processes.parallel(model)
        return Session(
            settings,
            data,
            model,
            uses,
            pruner,
            optimizer,
            rate,
            batches,
            GapProbe(model, pruner, data.train, data.validation) if probing else None,
            torch.compile(forward) if settings.compile else forward,
            GradScaler(device.type, enabled=settings.precision == "fp16"),
            Mixing.of(settings.mixup, settings.cutmix, data.num_classes, seed),
            _moving_average(model, settings.ema),
            processes,
        )

    @property
    def again(self) -> str:
        """How to go on with this run."""
        return "the same command without rerun=true" if self.config["rerun"] else "the same command"

    def facts(self) -> dict[str, Any]:
        """What the summary says of the run whatever its end."""
        return {
            "format": runs.FORMAT,
            "config_hash": self.hash,
            "numerics": runs.NUMERICS,
            "seed": self.config["seed"],
            **{key: self.choices[key] for key in ("model", "data", "pruner", "schedule")},
            "epochs": self.parts["trainer"].epochs,
            "device": self.config["trainer"]["device"],
            "threads": self.config["trainer"]["threads"],
            "torch": torch.__version__,
            "git": runs.git_commit(),
        }

    @property
    def device(self) -> torch.device:
        """Where the run computes; of several processes on a machine each has a GPU of its own."""
        name = self.config["trainer"]["device"]
        index = local_rank() if started_by_torchrun() else self.config["machine"]["device_index"]
        return torch.device(name, index) if name == "cuda" else torch.device(name)


def typed_overrides() -> list[str]:
    """What the user typed, as typed: read like a setting, references in it would be replaced, secrets too."""
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)


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
        file = runs.find_file("scheme", place, "scheme.json", OmegaConf.to_container(config, resolve=True))
    found = OmegaConf.merge(config, {"pruner": {"scheme": str(file)}})
    return found, runs.read_summary(file.parent)["config_hash"]


def _check_kinds(parts: dict[str, Any]) -> None:
    """Refuse what a file or an override builds nothing of, or something of another kind."""
    for name, method in KINDS.items():
        if not hasattr(parts[name], method):
            raise ConfigError(f"{name}: builds no {name}; it needs a `_target_` of that kind")
    for axis, method in AXES.items():
        part = parts["pruner"].get(axis)
        if isinstance(part, dict) or (part is not None and not hasattr(part, method)):
            raise ConfigError(
                f"pruner/{axis}: its file builds no {axis}; it needs `# @package pruner` as its very first line and a "
                f"node `{axis}:` with a `_target_` of that kind"
            )


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


@contextmanager
def user_errors(where: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a part refuses into a ConfigError that says which part."""
    try:
        yield
    except kinds or (ValueError,) as error:  # noqa: B030
        raise ConfigError(f"{where}: {error}") from error


def _check_writable(directory: Path) -> None:
    """Refuse a directory that could not be made or written."""
    if redact(str(directory)) != str(directory):
        raise ConfigError(f"run_dir={redact(str(directory))}: must not tell a secret")
    existing = next(path for path in (directory, *directory.parents, Path.cwd()) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"run_dir={directory}: must be a directory that can be written; {existing} is not")


def _check_padding(augmentation: Any, data: Images) -> None:
    if isinstance(augmentation, Augmentation) and augmentation.crop_padding > min(data.shape[1:]):
        raise ConfigError(
            f"data.augmentation.crop_padding={augmentation.crop_padding}: must be at most the images' size, "
            f"{min(data.shape[1:])}"
        )


def _moving_average(model: nn.Module, decay: float | None) -> Any:
    if decay is None:
        return None
    from timm.utils import ModelEmaV3  # takes a second to import

    return ModelEmaV3(model, decay)


def _check_parts(settings: Trainer, batch_size: int, num_processes: int) -> None:
    """Refuse a batch that cannot be shared: what each process averages must weigh the same."""
    if batch_size % num_processes:
        raise ConfigError(
            f"trainer.batch_size={batch_size}: must be a multiple of the {num_processes} processes that share it"
        )
    if settings.accumulate > batch_size // num_processes:
        raise ConfigError(
            f"trainer.accumulate={settings.accumulate}: must be at most the {batch_size // num_processes} images that "
            "a process has of each batch"
        )


def _warn_of_end(pruner: Pruner, total_steps: int) -> None:
    """Warn where the target is reached too late to train at it; soft methods mean to end so."""
    method = pruner.method
    if not method.dense and not method.estimator.trains_dense and pruner.window.stop == total_steps:
        log.warning("warning: the schedule stops at the run's last step, so no step is trained at the target")


def _warn_of_scope(pruner: Pruner, model: nn.Module, uses: dict[str, int]) -> None:
    """Warn where little is pruned, where its cost is unknown, or where an allocation has no room."""
    if unseen := [layer.name for layer in pruner.layers if layer.name not in uses]:
        log.warning(f"warning: no pass through {', '.join(unseen)} was seen; their MACs are not counted")
    prunable = sum(layer.weight.numel() for layer in pruner.layers)
    share = prunable / sum(layer.weight.numel() for layer in weight_layers(model))
    if share < SMALL_SCOPE:
        log.warning(f"warning: only {100 * share:.2g} % of the weights are in scope; see pruner/scope")
    method = pruner.method
    if method.dense or method.allocation.uniform or method.allocation.own_budget:
        return
    if all(method.pattern.target(layer.weight.shape) == 1 for layer in pruner.layers):
        log.warning(
            f"warning: pruner/allocation has no effect: every layer is at its least level, {method.pattern.title}"
        )


def _warn_without_effect(overrides: list[str], parts: dict[str, Any]) -> None:
    """Warn of settings that the user typed and that change nothing."""
    method: Method = parts["method"]
    one_shot = parts["schedule"].curve == "one_shot"
    cases = [
        (method.dense, ("schedule",), "a dense run has no path to walk"),
        (
            isinstance(method.path, Direct),
            ("schedule=", "schedule.stop=", "schedule.curve="),
            "this pruner has no intermediate states and jumps at schedule.start",
        ),
        (not method.dense and one_shot, ("schedule.stop=",), "one_shot goes the whole way at schedule.start"),
        (
            isinstance(method.allocation, Budget) and method.allocation.score != "owl",
            ("pruner.spread=",),
            "only pruner.score=owl reads it",
        ),
        (
            isinstance(method.path, Blocks) and method.path.order == "random",
            ("pruner.rerank=",),
            "a fixed random order is never ranked again",
        ),
    ]
    warned = set()
    for applies, prefixes, why in cases:
        for override in (o.lstrip("+~") for o in overrides):
            if applies and override.startswith(prefixes) and override not in warned:
                log.warning(f"warning: {override} has no effect: {why}")
                warned.add(override)
