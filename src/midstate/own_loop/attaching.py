"""`prune`: attach a method to a user's model and optimizer, and ask for the arguments that it needs."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from midstate.common.checks import boolean, integer
from midstate.common.seeds import seed_for
from midstate.compaction import Reordering, coupled_for, sizes_under_masks, weight_uses
from midstate.models import classifier_names
from midstate.own_loop.handle import OwnLoop
from midstate.own_loop.presets import Choice, choose, in_python
from midstate.own_loop.wanted import check_together, images_for
from midstate.sparsity import Method, Pruner, Sample, Schedule
from midstate.sparsity.allocations.extracted import is_extracted
from midstate.sparsity.tensors import names_of


def prune(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    method: str | Method = "nm_block",
    *,
    total_steps: int,
    schedule: str | Schedule | None = None,
    start: float | str | None = None,
    stop: float | str | None = None,
    steps_per_epoch: int | None = None,
    classifier: str | Collection[str] | None = None,
    sample: Sample | tuple[Tensor, Tensor] | None = None,
    trained: bool = False,
    seed: int = 0,
    **settings: Any,
) -> OwnLoop:
    """Prune a model while the user's own loop trains it; the loop itself does not change.

    Call it after pretrained weights are loaded and the optimizer is made, before schedulers, DDP and compile.

    Args:
        model: a plain model on its device; its layers in scope get a mask each.
        optimizer: the optimizer that trains the model, or several. The steps of the first are counted, and masks change
            after them: give first the one that steps last.
        method: name of a preset, such as `nm_block`; or a `Method`, the axes as objects.
        total_steps: optimizer steps that the loop is to make.
        schedule: name of a curve, such as `cubic`, or a `Schedule`; None: the preset's own, else cubic.
        start: when the path begins: a share of the run (0..1), epochs ('10ep') or steps ('500it'); None: the preset's.
        stop: when the target is reached, likewise.
        steps_per_epoch: optimizer steps an epoch, for times in epochs.
        classifier: name or names of the layers that make the logits; None: timm's, else the last layer with weights.
        sample: training images (N, C, H, W) and labels (N,), for methods that measure.
        trained: whether the weights are trained already; some presets need this.
        seed: seed of the pruner's random numbers.
        **settings: settings of the preset, such as `n=2, m=4`; axes by name, `criterion="taylor"`, or as objects.

    Returns:
        The handle of the pruner: save its `state_dict` in checkpoints, and call `finalise` after the last step.

    Raises:
        ValueError: an argument is missing or cannot work; the message says what is allowed.
    """
    total_steps = integer("total_steps", total_steps, 1)
    optimizers = _checked(model, optimizer)
    choice = choose(method, settings, schedule, start, stop)
    if steps_per_epoch is not None:
        steps_per_epoch = integer("steps_per_epoch", steps_per_epoch, 1)
    check_together(choice, steps_per_epoch, boolean("trained", trained))
    heads = names_of(classifier_names(model) if classifier is None else classifier)
    before = {id(parameter) for parameter in model.parameters()}
    seed = seed_for(integer("seed", seed, 0), "pruning")
    images = images_for(choice, model, sample)
    try:
        reordering = _reordering(choice, model, images, optimizers, seed)
        pruner = _attach(choice, model, steps_per_epoch or total_steps, total_steps, seed, heads, images, reordering)
        added = [parameter for parameter in model.parameters() if id(parameter) not in before]
        left = [] if choice.method.dense else pruner.left_dense(model, heads)
        left = [f"{layer.name} ({why})" for layer, why in left]
        return _begun(OwnLoop(choice.name, pruner, optimizers, total_steps, heads, left, added))
    except ValueError as error:
        raise ValueError(in_python(str(error))) from error


def _begun(loop: OwnLoop) -> OwnLoop:
    """Make the first refresh and return the loop; if the refresh fails, detach the pruner from the model."""
    try:
        loop.begin()
    except Exception:
        loop.pruner.detach()
        raise
    return loop


def _attach(
    choice: Choice,
    model: nn.Module,
    steps_per_epoch: int,
    total_steps: int,
    seed: int,
    heads: Collection[str],
    images: Sample | None,
    reordering: Reordering | None,
) -> Pruner:
    uses = None if images is None else weight_uses(model, images.images[:2])
    extracted = is_extracted(choice.method.allocation)
    sizes = sizes_under_masks(model, uses, tuple(images.images.shape[1:])) if extracted else None
    coupled = None if images is None else coupled_for(choice.method.pattern, model, tuple(images.images.shape[1:]))
    return Pruner(
        model, choice.method, choice.schedule, steps_per_epoch, total_steps, seed, heads, uses, images, sizes, coupled,
        reordering,
    )  # fmt: skip


def _reordering(
    choice: Choice, model: nn.Module, images: Sample | None, optimizers: Sequence[Optimizer], seed: int
) -> Reordering | None:
    """The reordering of channels before the first mask; None: the method does not permute."""
    if not choice.method.permutes:
        return None
    reordering = Reordering(model, tuple(images.images.shape[1:]), choice.method.pattern, seed)
    reordering.optimizers += optimizers
    return reordering


def _checked(model: nn.Module, optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    """Refuse a model or optimizers that cannot be followed; return the optimizers as a list."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={type(model).__name__}: must be a torch.nn.Module")
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
    if wrapped or hasattr(model, "_orig_mod"):
        raise ValueError(f"model={type(model).__name__}: call prune on the plain model, before DDP and torch.compile")
    optimizers = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    if not optimizers:
        raise ValueError("optimizer=[]: must be an optimizer, or several")
    for each in optimizers:
        if not isinstance(each, Optimizer) or not hasattr(each, "_optimizer_step_pre_hooks"):
            raise ValueError(
                f"optimizer={type(each).__name__}: must be a torch.optim.Optimizer itself; of a wrapper (accelerate's, "
                "for one) give the optimizer that it wraps"
            )
        if isinstance(each, LBFGS):
            raise ValueError("optimizer=LBFGS: calls its closure more than once a step; choose SGD, AdamW or the like")
    held = {id(each) for one in optimizers for group in one.param_groups for each in group["params"]}
    if not any(id(parameter) in held for parameter in model.parameters()):
        raise ValueError("optimizer: holds none of the model's parameters; give the one that trains this model")
    return optimizers
