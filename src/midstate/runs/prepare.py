"""From a plan to a session: data loaded, network, pruner and optimizer made and attached. Nothing is written yet."""

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from midstate.common.errors import ConfigError, user_errors
from midstate.common.seeds import seed_for
from midstate.compaction import counting
from midstate.data import Augmentation, Batches, Images
from midstate.distributed.machine import keep_freed_memory
from midstate.distributed.processes import ALONE, Processes
from midstate.engine.mixup import Mixing
from midstate.engine.probes import NUM_IMAGES, GapProbe
from midstate.engine.session import Session
from midstate.engine.settings import Trainer
from midstate.models import classifier_names, load_weights, narrowed, try_training
from midstate.runs.directory import read_config
from midstate.runs.plan import Plan
from midstate.runs.warnings import warn_of_end, warn_of_scope, warn_of_start
from midstate.sparsity import Pruner, Sample

log = logging.getLogger(__name__)


def prepare(plan: Plan, processes: Processes = ALONE) -> Session:
    """Load the data, make and attach everything.

    Args:
        plan: checked and resolved.
        processes: that do the run together; each makes its own, and all are the same.

    Raises:
        ConfigError: the parts do not fit each other.
    """
    # As resolved: `auto` is decided.
    settings: Trainer = replace(plan.parts["trainer"], precision=plan.config["trainer"]["precision"])
    with user_errors("trainer.threads", ValueError, RuntimeError):
        torch.set_num_threads(plan.config["trainer"]["threads"])
    keep_freed_memory()
    seed = plan.config["seed"]
    data = _load(plan, processes)
    model, uses = _make_model(plan, settings, data, processes)
    torch.manual_seed(seed_for(seed, "dropout", *([processes.rank] if processes.rank else [])))
    batches = _make_batches(plan, settings, data, processes)
    total_steps = settings.epochs * batches.steps_per_epoch
    pruner = _attach(plan, model, uses, data, batches.steps_per_epoch, total_steps)
    with user_errors("optimizer"):
        optimizer = plan.parts["optimizer"].create(model)
        rate = plan.parts["optimizer"].rate(batches.steps_per_epoch, total_steps)
    probing = settings.probes and not pruner.method.dense and pruner.method.path.probed
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
        GradScaler(plan.device.type, enabled=settings.precision == "fp16"),
        Mixing.of(settings.mixup, settings.cutmix, data.num_classes, seed),
        _moving_average(model, settings.ema),
        processes,
    )


def _load(plan: Plan, processes: Processes) -> Images:
    recipe = plan.parts["data"]
    with user_errors("data"):
        fetches = getattr(recipe, "download", False)
        data = (processes.one_after_the_other(recipe.load) if fetches else recipe.load()).to(plan.device)
    augmentation = recipe.augmentation
    if isinstance(augmentation, Augmentation) and augmentation.crop_padding > min(data.shape[1:]):
        raise ConfigError(
            f"data.augmentation.crop_padding={augmentation.crop_padding}: must be at most the images' size, "
            f"{min(data.shape[1:])}"
        )
    return data


def _make_model(plan: Plan, settings: Trainer, data: Images, processes: Processes) -> tuple[nn.Module, dict[str, int]]:
    """The network, with its first weights, and how often an image uses each of them."""
    recipe, device = plan.parts["model"], plan.device
    pair = data.train.first(2)
    if plan.parts["pruner"].get("narrow") is not None:
        recipe = _narrower(plan, pair.images, data.num_classes)

    def create() -> nn.Module:
        torch.manual_seed(seed_for(plan.config["seed"], "initialisation"))
        with user_errors("model", Exception):  # what other libraries raise for their own arguments
            return recipe.create(data.shape[0], data.num_classes).to(device)

    model = processes.one_after_the_other(create) if getattr(recipe, "pretrained", False) else create()
    with user_errors("model", ValueError, TypeError, RuntimeError, AssertionError):
        if "checkpoint" in plan.parts:
            load_weights(model, plan.parts["checkpoint"])
    name = f".name={recipe.name}" if hasattr(recipe, "name") else f"={plan.choices['model']}"
    with user_errors(f"model{name}, data.size={data.shape[-1]}", ValueError, TypeError, RuntimeError, AssertionError):
        try_training(model, pair.images, data.num_classes)
        # A CPU's convolutions lay out weights anew anyhow, and groups of N:M are cut sooner as they are.
        if settings.channels_last and device.type == "cuda":
            model = model.to(memory_format=torch.channels_last)
        if settings.sync_batchnorm and processes.distributed:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        uses = counting.weight_uses(model, pair.images)  # also shows that model and images fit
    return model, uses


def _narrower(plan: Plan, images: Tensor, num_classes: int) -> Any:
    """The recipe of a narrower network; what it is goes into the configuration that is written."""
    recipe, images = plan.parts["model"], images.cpu()
    with user_errors("model", Exception):
        wide = recipe.create(images.shape[1], num_classes)
        try_training(wide, images, num_classes)
    with user_errors("pruner"):
        like = plan.parts.get("like")
        recipe, found = narrowed(recipe, wide, plan.parts["pruner"]["narrow"], like, images, num_classes)
    begun = None if plan.config["rerun"] else read_config(plan.directory)
    if begun and begun["model"].get("narrowed", found) != found:
        raise ConfigError(
            f"pruner.like={plan.config['pruner']['like']}: asks for {found}, and this run began with "
            f"{begun['model']['narrowed']}; that run must have been made anew since. rerun=true starts over"
        )
    plan.config["model"]["narrowed"] = found
    return recipe


def _make_batches(plan: Plan, settings: Trainer, data: Images, processes: Processes) -> Batches:
    if settings.batch_size > len(data.train):
        log.warning(
            f"warning: trainer.batch_size={settings.batch_size}: there are only {len(data.train)} training images; "
            "all of them are one batch"
        )
    batches = data.train.training(
        settings.batch_size,
        plan.parts["data"].augmentation,
        plan.config["seed"],
        settings.max_steps_per_epoch,
        processes.rank,
        processes.size,
    )
    # What each process averages must weigh the same.
    if batches.batch_size % processes.size:
        raise ConfigError(
            f"trainer.batch_size={batches.batch_size}: must be a multiple of the {processes.size} processes that share "
            "it"
        )
    if settings.accumulate > (own := batches.batch_size // processes.size):
        raise ConfigError(
            f"trainer.accumulate={settings.accumulate}: must be at most the {own} images that a process has of each "
            "batch"
        )
    return batches


def _attach(
    plan: Plan, model: nn.Module, uses: dict[str, int], data: Images, steps_per_epoch: int, total_steps: int
) -> Pruner:
    first = data.train.first(NUM_IMAGES)
    with user_errors("pruner and schedule"):
        pruner = Pruner(
            model,
            plan.parts["method"],
            plan.parts["schedule"],
            steps_per_epoch,
            total_steps,
            seed_for(plan.config["seed"], "pruning"),
            classifier_names(model),
            uses,
            Sample(first.images, first.labels),
        )
    warn_of_scope(pruner, model, uses)
    warn_of_end(pruner, total_steps)
    warn_of_start(pruner)
    return pruner


def _moving_average(model: nn.Module, decay: float | None) -> Any:
    if decay is None:
        return None
    from timm.utils import ModelEmaV3  # takes a second to import

    return ModelEmaV3(model, decay)
