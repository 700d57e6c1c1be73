"""Warnings of settings and schedules that change nothing, or less than they seem to."""

import logging

from torch import nn

from midstate.common.times import steps_of, warn_if_longer
from midstate.runs.parts import Parts
from midstate.sparsity import Blocks, Budget, Candidates, Direct, Pruner, weight_layers

log = logging.getLogger(__name__)
SMALL_SCOPE = 0.1


def warn_of_end(pruner: Pruner, total_steps: int) -> None:
    """Warn where the target is reached too late to train at it; soft methods mean to end so."""
    method = pruner.method
    if not method.dense and not method.estimator.trains_dense and pruner.window.stop == total_steps:
        log.warning("warning: the schedule stops at the run's last step, so no step is trained at the target")
    if not method.dense and method.update.from_zero and not pruner.ticks.any_between():
        log.warning(
            f"warning: pruner.every={method.update.every}: no weight will change place before masks are frozen at step "
            f"{pruner.ticks.until}; use a smaller one, such as pruner.every=10it"
        )


def warn_of_long_times(pruner: Pruner, checkpoint_every: str, steps_per_epoch: int, total_steps: int) -> None:
    """Warn of intervals of masks and checkpoints that are longer than the run; the optimizer speaks of its own."""
    times = [("trainer.checkpoint_every", checkpoint_every, "only the end of the run is saved")]
    update = pruner.method.update
    if not pruner.method.dense and not update.from_zero:  # of those `warn_of_end` speaks
        times.append(("pruner.every", update.every, "masks are refreshed at the schedule's start and stop only"))
    if not pruner.method.dense:
        times.append(("pruner.until", update.until, "it changes nothing"))
    for name, time, then in times:
        if time is not None:
            warn_if_longer(name, time, steps_of(name, time, steps_per_epoch, total_steps), total_steps, then)


def warn_of_start(pruner: Pruner) -> None:
    """Warn where a penalty has no step to act in; without it, gammas are all alike unless a checkpoint brings them."""
    if pruner.method.penalty and pruner.window.start == 0:
        log.warning(
            "warning: pruner/penalty has no effect: units go before the first step; schedule.start leaves it time"
        )


def warn_of_scope(pruner: Pruner, model: nn.Module, uses: dict[str, int]) -> None:
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


def warn_without_effect(overrides: list[str], parts: Parts) -> None:
    """Warn of settings that the user typed and that change nothing."""
    method = parts.method
    one_shot = parts.schedule.curve == "one_shot"
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
        (
            isinstance(method.estimator, Candidates),
            ("pruner/criterion=",),
            "estimator=candidates ranks combinations by what it has learnt",
        ),
    ]
    warned = set()
    for applies, prefixes, why in cases:
        for override in (o.lstrip("+~") for o in overrides):
            if applies and override.startswith(prefixes) and override not in warned:
                log.warning(f"warning: {override} has no effect: {why}")
                warned.add(override)
