"""From a plan to a session: data loaded, network, pruner and optimizer made and attached. Nothing is written yet."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from midstate.common.errors import ConfigError, user_errors
from midstate.common.seeds import seed_for
from midstate.compaction import Reordering, coupled_for, sizes_under_masks, weight_uses
from midstate.data import Augmentation, Batches, Images
from midstate.distributed.machine import keep_freed_memory
from midstate.distributed.processes import ALONE, Processes
from midstate.engine.mixup import Mixing
from midstate.engine.probes import NUM_IMAGES, GapProbe
from midstate.engine.recovery import Recovery
from midstate.engine.session import Session
from midstate.models import classifier_names, load_weights, narrowed, try_training
from midstate.quantization import Quantizer, drop_input_quantisers
from midstate.runs.plan import Plan
from midstate.runs.warnings import (
    warn_of_end,
    warn_of_long_times,
    warn_of_pretrained,
    warn_of_scope,
    warn_of_start,
    warn_of_walk,
)
from midstate.sparsity import Pruner, Sample
from midstate.sparsity.allocations.extracted import is_extracted
from midstate.sparsity.trials import Finetune

log = logging.getLogger(__name__)


def build_session(plan: Plan, processes: Processes = ALONE) -> Session:
    """Load the data, build the network, and attach pruner, quantizer and optimizer.

    Args:
        plan: checked and resolved.
        processes: of the run; each builds its own session, equal to the others.

    Raises:
        ConfigError: a part cannot be built, or parts do not fit each other.
    """
    settings, seed = plan.parts.trainer, plan.seed
    with user_errors("trainer.threads", ValueError, RuntimeError):
        torch.set_num_threads(settings.threads)
    keep_freed_memory()
    data = _load(plan, processes)
    warn_of_pretrained(plan.parts, data.num_classes)
    model, uses, narrowed = _make_model(plan, data, processes)
    torch.manual_seed(seed_for(seed, "dropout", *([processes.rank] if processes.rank else [])))
    batches = _make_batches(plan, data, processes)
    total_steps = settings.epochs * batches.steps_per_epoch
    reordering = _reordering(plan, model, data)
    pruner = _attach(plan, model, uses, data, batches.steps_per_epoch, total_steps, reordering)
    quantizer = _quantise(plan, model, uses, data, batches.steps_per_epoch, total_steps)
    if quantizer and quantizer.search and pruner.search:
        raise ConfigError(
            "pruner/allocation and quantizer/allocation: one of them may try schemes; the other may take a file, scheme"
        )
    with user_errors("optimizer"):
        optimizer = plan.parts.optimizer.create(model)
        if quantizer:
            quantizer.own_groups(optimizer)
        rate = plan.parts.optimizer.rate(batches.steps_per_epoch, total_steps)
    walk = quantizer if pruner.method.dense else pruner
    probing = settings.probes and walk is not None and (walk is quantizer or pruner.method.path.probed)
    forward = processes.parallel(model)
    ema = _moving_average(model, settings.ema)
    if reordering:
        reordering.optimizers.append(optimizer)
        reordering.averages += [ema.module] if ema else []
    return Session(
        settings=settings,
        data=data,
        model=model,
        uses=uses,
        narrowed=narrowed,
        pruner=pruner,
        optimizer=optimizer,
        rate=rate,
        batches=batches,
        probe=GapProbe(model, walk, data.train, data.validation, settings.probe_images) if probing else None,
        forward=torch.compile(forward) if settings.compile else forward,
        scaler=GradScaler(plan.parts.device.type, enabled=settings.precision == "fp16"),
        mixing=Mixing.of(settings.mixup, settings.cutmix, data.num_classes, seed),
        ema=ema,
        processes=processes,
        quantizer=quantizer,
        recovery=Recovery(model, data.train, data.unused) if settings.recovery else None,
    )


def _load(plan: Plan, processes: Processes) -> Images:
    recipe = plan.parts.data
    with user_errors("data"):
        fetches = getattr(recipe, "download", False)
        data = (processes.rank_zero_first(recipe.load) if fetches else recipe.load()).to(plan.parts.device)
    augmentation = recipe.augmentation
    if isinstance(augmentation, Augmentation) and augmentation.crop_padding > min(data.shape[1:]):
        raise ConfigError(
            f"data.augmentation.crop_padding={augmentation.crop_padding}: must be at most the images' size, "
            f"{min(data.shape[1:])}"
        )
    return data


def _make_model(
    plan: Plan, data: Images, processes: Processes
) -> tuple[nn.Module, dict[str, int], dict[str, Any] | None]:
    """The network with its initial weights, how often an image uses each weight, and the widths that were found."""
    recipe, device, settings, found = plan.parts.model, plan.parts.device, plan.parts.trainer, None
    pair = data.train.first(2)
    if plan.parts.narrow is not None:
        recipe, found = _narrower(plan, pair.images, data.num_classes)

    def create() -> nn.Module:
        torch.manual_seed(seed_for(plan.seed, "initialisation"))
        with user_errors("model", Exception):  # other libraries raise many kinds for bad arguments
            return recipe.create(data.shape[0], data.num_classes).to(device)

    model = processes.rank_zero_first(create) if getattr(recipe, "pretrained", False) else create()
    with user_errors("model", ValueError, TypeError, RuntimeError, AssertionError):
        if plan.checkpoint is not None:
            load_weights(model, plan.checkpoint)
            if drop_input_quantisers(model):
                log.info("the checkpoint's quantisers of inputs are left out: training begins from its weights alone")
    name = f".name={recipe.name}" if hasattr(recipe, "name") else f"={plan.choices['model']}"
    with user_errors(f"model{name}, data.size={data.shape[-1]}", ValueError, TypeError, RuntimeError, AssertionError):
        try_training(model, pair.images, data.num_classes)
        if settings.channels_last:
            model.register_forward_pre_hook(_channels_last)
            # On a CPU, convolutions reorder weights anyway, and N:M groups are faster to take in the default layout.
            if device.type == "cuda":
                model = model.to(memory_format=torch.channels_last)
        if settings.sync_batchnorm and processes.distributed:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        uses = weight_uses(model, pair.images)  # also shows that model and images fit
    return model, uses, found


def _channels_last(model: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Convert images to channels last; `contiguous` leaves one-channel images, and then all features, unconverted."""
    return inputs[0].to(memory_format=torch.channels_last)


def _narrower(plan: Plan, images: Tensor, num_classes: int) -> tuple[Any, dict[str, Any]]:
    """The recipe of a narrower network, and its widths."""
    recipe, images = plan.parts.model, images.cpu()
    with user_errors("model", Exception):
        wide = recipe.create(images.shape[1], num_classes)
        try_training(wide, images, num_classes)
    with user_errors("pruner"):
        return narrowed(recipe, wide, plan.parts.narrow, plan.allowed, images, num_classes)


def _make_batches(plan: Plan, data: Images, processes: Processes) -> Batches:
    settings = plan.parts.trainer
    if settings.batch_size > len(data.train):
        log.warning(
            f"warning: trainer.batch_size={settings.batch_size}: there are only {len(data.train)} training images; "
            "all of them are one batch"
        )
    batches = data.train.training(
        settings.batch_size,
        plan.parts.data.augmentation,
        plan.seed,
        settings.max_steps_per_epoch,
        processes.rank,
        processes.size,
    )
    # Gradients are averaged over processes, so each must have the same number of images.
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


def _reordering(plan: Plan, model: nn.Module, data: Images) -> Reordering | None:
    """The object that reorders channels before the first mask; None without `pruner.permute`."""
    if not plan.parts.method.permutes:
        return None
    with user_errors("pruner.permute"):
        return Reordering(model, data.shape, plan.parts.method.pattern, seed_for(plan.seed, "pruning"))


def _attach(
    plan: Plan,
    model: nn.Module,
    uses: dict[str, int],
    data: Images,
    steps_per_epoch: int,
    total_steps: int,
    reordering: Reordering | None,
) -> Pruner:
    extracted = is_extracted(plan.parts.method.allocation)
    with user_errors("pruner and schedule"):
        pruner = Pruner(
            model,
            plan.parts.method,
            plan.parts.schedule,
            steps_per_epoch,
            total_steps,
            seed_for(plan.seed, "pruning"),
            classifier_names(model),
            uses,
            _sample(data, method.allocation if "trial" in (method := plan.parts.method).needs else None),
            sizes_under_masks(model, uses, data.shape) if extracted else None,
            coupled_for(plan.parts.method.pattern, model, data.shape),
            reordering,
        )
    _check_trained(plan, "pruner", pruner)
    warn_of_walk(pruner, "pruner", total_steps)
    warn_of_scope(pruner, model, uses)
    warn_of_end(pruner, total_steps)
    warn_of_long_times(pruner, plan.parts.trainer.checkpoint_every, steps_per_epoch, total_steps)
    warn_of_start(pruner, model, _trained(plan))
    return pruner


def _quantise(
    plan: Plan, model: nn.Module, uses: dict[str, int], data: Images, steps_per_epoch: int, total_steps: int
) -> Quantizer | None:
    method = plan.parts.quantization
    if method is None:
        return None
    with user_errors("quantizer and schedule"):
        quantizer = Quantizer(
            model,
            method,
            plan.parts.schedule,
            steps_per_epoch,
            total_steps,
            seed_for(plan.seed, "quantisation"),
            classifier_names(model),
            uses,
            _sample(data, method.allocation if "trial" in method.allocation.needs else None),
        )
    _check_trained(plan, "quantizer", quantizer)
    warn_of_walk(quantizer, "quantizer", total_steps)
    return quantizer


def _sample(data: Images, finetune: Finetune | None) -> Sample:
    """The first training images, for measurements; `finetune` adds images to finetune on and held-out images.

    Raises:
        ValueError: there are too few training images.
    """
    first = data.train.first(NUM_IMAGES)
    if finetune is None:
        return Sample(first.images, first.labels)
    more = data.train.first(finetune.trial_images + finetune.held_out)
    return Sample(first.images, first.labels, *finetune.split(Sample(more.images, more.labels)))


def _check_trained(plan: Plan, group: str, walk: Pruner | Quantizer) -> None:
    """Refuse to try schemes on a network that nothing has trained: they would all be as good as chance."""
    if walk.search and walk.window.start == 0 and not _trained(plan):
        raise ConfigError(
            f"{group}/allocation={plan.choices.get(f'{group}/allocation')}: tries schemes on trained weights, and "
            "there are none at the first step; give them by model.checkpoint=outputs/dense (a file, or runs of a dense "
            "experiment) or model.pretrained=true, or train dense first in the same run: schedule.start=0.25"
        )


def _trained(plan: Plan) -> bool:
    """Tell whether the run begins with trained weights."""
    return plan.checkpoint is not None or bool(getattr(plan.parts.model, "pretrained", False))


def _moving_average(model: nn.Module, decay: float | None) -> Any:
    if decay is None:
        return None
    from timm.utils import ModelEmaV3  # takes a second to import

    return ModelEmaV3(model, decay)
