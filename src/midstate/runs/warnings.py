"""Warnings about settings and schedules that change nothing, or less than they seem to."""

import logging

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from midstate.common.times import steps_of, warn_if_longer
from midstate.models import classifier_names
from midstate.quantization import LSQ, PACT, BitScheme, Estimator, Gates, Jump, Quantization, Quantizer
from midstate.runs.parts import Parts
from midstate.sparsity import HAQ, Budget, DropGrow, Pruner, Soft, weight_layers
from midstate.sparsity.idle import idle

log = logging.getLogger(__name__)
SMALL_SCOPE = 0.1
NAMED = 8  # layers that a message names at most


def warn_of_end(pruner: Pruner, total_steps: int) -> None:
    """Warn if no step is trained at the target (soft methods end so by design), or if drop-and-grow never acts."""
    method = pruner.method
    if not method.dense and not method.estimator.trains_dense and pruner.window.stop == total_steps:
        log.warning("warning: the schedule stops at the run's last step, so no step is trained at the target")
    if isinstance(method.update, DropGrow) and not pruner.refresh_steps.any_between():
        log.warning(
            f"warning: pruner.every={method.update.every}: no weight will change place before masks are frozen at step "
            f"{pruner.refresh_steps.until}; use a smaller one, such as pruner.every=10it"
        )


def warn_of_long_times(pruner: Pruner, checkpoint_every: str, steps_per_epoch: int, total_steps: int) -> None:
    """Warn of times of masks and checkpoints that are longer than the run; the optimizer checks its own."""
    times = [("trainer.checkpoint_every", checkpoint_every, "only the end of the run is saved")]
    update = pruner.method.update
    if not pruner.method.dense and not isinstance(update, DropGrow):  # `warn_of_end` covers drop-and-grow
        rest = " and for evaluations" if update.live else " only"
        times.append(("pruner.every", update.every, f"masks are refreshed at the schedule's start and stop{rest}"))
    if not pruner.method.dense:
        times.append(("pruner.until", update.until, "it changes nothing"))
    for name, time, then in times:
        if time is not None:
            warn_if_longer(name, time, steps_of(name, time, steps_per_epoch, total_steps), total_steps, then)


def warn_of_walk(walk: Pruner | Quantizer, group: str, total_steps: int) -> None:
    """Warn if a search has no episode after its warm-up, or if a quantizer reaches its bits at the last step only."""
    allocation = walk.method.allocation
    if isinstance(allocation, HAQ) and allocation.warmup >= allocation.episodes:
        log.warning(
            f"warning: {group}.episodes={allocation.episodes}: all are random, for the agent learns after "
            f"{group}.warmup={allocation.warmup} of them"
        )
    if isinstance(walk, Quantizer) and walk.window.stop >= total_steps:
        log.warning("warning: bits come down until the run's last step, so no step is trained at the target's")


def warn_of_start(pruner: Pruner, model: nn.Module, trained: bool) -> None:
    """Warn of filters zeroed for ever, of channels ordered by untrained weights, and of a penalty without steps.

    A filter of zeros whose BatchNorm has beta = 0 gives 0 to the ReLU, whose gradient at 0 is 0: neither the filter's
    weights nor its BatchNorm ever learn. A penalty that cannot act leaves all gammas equal, unless a checkpoint
    brings others.
    """
    if _zeroes_for_ever(pruner, model):
        log.warning(
            "warning: filters are zeroed before the first step, and of this new network they get no gradient behind "
            "BatchNorm and ReLU: most of them never come back (as in SFP's released code); schedule.start=1ep prunes "
            "after an epoch of training, as its paper says"
        )
    if pruner.method.permutes and pruner.window.start == 0 and not trained:
        log.warning(
            "warning: pruner.permute=true: channels are ordered by random weights, which is of little use; give "
            "trained ones by model.checkpoint or model.pretrained=true, or train dense first: schedule.start=0.5"
        )
    if pruner.method.penalty and pruner.window.start == 0:
        log.warning(
            "warning: pruner/penalty has no effect: units go before the first step; schedule.start leaves it time"
        )


def _zeroes_for_ever(pruner: Pruner, model: nn.Module) -> bool:
    """Tell whether a soft method zeroes filters before the first step while all betas of BatchNorm are 0."""
    method = pruner.method
    if not method.prunes_filters or not isinstance(method.estimator, Soft) or method.estimator.mask_gradient:
        return False
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.affine]
    return pruner.window.progress(0) > 0 and bool(norms) and not any(norm.bias.any() for norm in norms)


def warn_of_pretrained(parts: Parts, num_classes: int) -> None:
    """Warn if pretrained weights were trained with another normalisation, or for another number of classes."""
    model, data = parts.model, parts.data
    trained = model.trained() if getattr(model, "pretrained", False) else None
    if trained is None:
        return
    if hasattr(data, "mean"):
        own, theirs = ([[round(float(x), 3) for x in each] for each in (of.mean, of.std)] for of in (data, trained))
        if own != theirs:
            log.warning(
                f"warning: data.mean={own[0]} data.std={own[1]}: the weights of {model.name} were trained with "
                f"data.mean={theirs[0]} data.std={theirs[1]}"
            )
    if trained.num_classes != num_classes:
        log.warning(
            f"warning: model.pretrained={model.pretrained}: is of {trained.num_classes} classes, and the data have "
            f"{num_classes}: the classifier begins anew"
        )


def warn_of_scope(pruner: Pruner, model: nn.Module, uses: dict[str, int]) -> None:
    """Warn if few weights are in scope, if MACs are unknown, if groups do not fit, or if no level is left to choose."""
    if unseen := [layer.name for layer in pruner.layers if layer.name not in uses]:
        log.warning(f"warning: no pass through {', '.join(unseen)} was seen; their MACs are not counted")
    prunable = sum(layer.weight.numel() for layer in pruner.layers)
    share = prunable / sum(layer.weight.numel() for layer in weight_layers(model))
    if share < SMALL_SCOPE:
        log.warning(f"warning: only {100 * share:.2g} % of the weights are in scope; see pruner/scope")
    method = pruner.method
    if not method.dense:
        _warn_of_indivisible(pruner, model)
    if method.dense or method.allocation.uniform or method.allocation.own_budget:
        return
    if all(method.pattern.target(layer.weight.shape) == 1 for layer in pruner.layers):
        log.warning(
            f"warning: pruner/allocation has no effect: every layer is at its least level, {method.pattern.title}"
        )


def _warn_of_indivisible(pruner: Pruner, model: nn.Module) -> None:
    """Warn of layers left dense because M does not divide their channels, and name their share of all parameters."""
    scope, pattern = pruner.method.scope, pruner.method.pattern
    left = scope.left_dense(model, classifier_names(model), pattern)
    if not (layers := [layer for layer, why in left if why == "indivisible"]):
        return
    total = sum(p.numel() for p in model.parameters())
    share = sum(layer.weight.numel() for layer in layers) / total
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    log.warning(
        f"warning: {len(layers)} layers stay dense, {100 * share:.2g} % of all parameters, for m={pattern.m} does not "
        f"divide their input channels: {', '.join(layer.name for layer in layers[:NAMED])}{more}; "
        "pruner.indivisible=pad prunes them, too, and keeps partial groups"
    )


def _of_quantizer(quantization: Quantization, one_shot: bool, alone: bool) -> list[tuple[bool, tuple[str, ...], str]]:
    """Cases in which quantizer settings change nothing: whether it applies, prefixes of the overrides, reason."""
    allocation, jumps = quantization.allocation, isinstance(quantization.path, Jump)
    no_inputs, clipped = not quantization.quantises_inputs, isinstance(quantization.activation, PACT)
    follows = type(quantization.estimator).refit is not Estimator.refit
    given_bits = allocation.uniform or isinstance(allocation, BitScheme)
    own_bits = given_bits or isinstance(allocation, Gates)
    inputs = ("quantizer/activation=", "quantizer.activation_")
    given = "quantizer.activation_bits="
    return [
        (no_inputs, inputs, f"inputs are not quantised; {given}8 quantises them"),
        (not no_inputs and not clipped, ("quantizer.activation_decay=",), "only quantizer/activation=pact has clips"),
        (
            not follows and jumps,
            ("quantizer.every=",),
            "values are learned in every step, and no grid is fitted to the weights again",
        ),
        (isinstance(quantization.estimator, LSQ), ("quantizer.clip=",), "this estimator learns its steps"),
        (not isinstance(allocation, Gates), ("quantizer.activation_gate=",), "no gates learn here"),
        (
            not given_bits and quantization.target is not None,
            ("quantizer.weight_bits=",),
            "quantizer.target is what the bits may cost; quantizer.target=null: as much as these bits",
        ),
        (isinstance(allocation, BitScheme), ("quantizer.weight_bits=",), "the scheme's file has the bits of weights"),
        (own_bits, ("quantizer.levels=", "quantizer.budget="), "this allocation chooses nothing under a budget"),
        (
            isinstance(allocation, Budget) and allocation.score != "hessian",
            ("quantizer.vectors=",),
            "only quantizer.score=hessian reads it",
        ),
        (
            not jumps and one_shot,
            ("quantizer/path=", "quantizer.path_bits="),
            "one_shot goes the whole way at schedule.start, and no state lies between; schedule=linear walks it",
        ),
        (
            jumps and alone,
            ("schedule.stop=", "schedule.curve=", *(() if one_shot else ("schedule=",))),
            "this quantizer has no intermediate states and jumps at schedule.start; quantizer/path=bits has some",
        ),
    ]


def warn_without_effect(overrides: list[str], parts: Parts) -> None:
    """Warn of settings that the user typed and that change nothing."""
    method, quantization = parts.method, parts.quantization
    one_shot = parts.schedule.curve == "one_shot"
    cases = [
        (method.dense and quantization is None, ("schedule",), "a dense run has no path to walk"),
        *idle(method, parts.schedule.curve, quantization is None or isinstance(quantization.path, Jump)),
        *(_of_quantizer(quantization, one_shot, method.dense) if quantization else ()),
    ]
    warned = set()
    for applies, prefixes, why in cases:
        for override in (o.lstrip("+~") for o in overrides):
            set_to_nothing = override == "quantizer.activation_bits=null"
            if applies and override.startswith(prefixes) and override not in warned and not set_to_nothing:
                log.warning(f"warning: {override} has no effect: {why}")
                warned.add(override)
