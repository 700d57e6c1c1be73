"""One optimizer step: forward and backward in micro-batches, and the walkers' rules around the update."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstate.common.errors import RunFailed
from midstate.engine.session import Session
from midstate.sparsity import OutOfReach, Unrankable
from midstate.sparsity.walker import Walker

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_SCALE = 2.0**-14  # of the loss: fp16's smallest normal number; a smaller scale would not help


def train_step(session: Session, images: Tensor, labels: Tensor) -> None:
    """Do one optimizer step: masks, learning rate, forward, backward, update."""
    if due := [walker for walker in session.walkers if walker.due(session.step)]:
        refresh(session, due)
    started = time.perf_counter()
    for group in session.optimizer.param_groups:
        group["lr"] = session.rate.at(session.step) * group.get("lr_scale", 1.0)
    session.optimizer.zero_grad(set_to_none=True)
    loss, correct, num_images = _forward_backward(session, images, labels)
    _update(session)
    session.step += 1
    session.losses.append(loss)
    if session.ema:
        session.ema.update(session.model, step=session.step)
    seconds = time.perf_counter() - started
    for name, value in (
        ("loss", loss * num_images),
        ("correct", correct),
        ("images", num_images),
        ("seconds", seconds),
    ):
        session.totals[name] = session.totals.get(name, 0) + value


def refresh(session: Session, due: Sequence[Walker]) -> None:
    """Measure the jump that masks or bits are about to make, if there is one, and refresh them.

    Args:
        session: changed in place.
        due: the session's walkers that refresh now.

    Raises:
        RunFailed: scores cannot be ranked, a budget cannot be met, or the masks of the processes differ.
    """
    started = time.perf_counter()
    probe = session.probe if session.probe and session.probe.walker in due else None
    if probe or any(walker.measures for walker in due):
        session.synchronise()
    try:
        row = probe.before_refresh(session.step) if probe else None
        for walker in due:
            walker.refresh(session.step)
        session.follow_quantizer()
    except Unrankable as error:
        session.diverged(str(error))
    except OutOfReach as error:
        raise RunFailed(f"allocation: {error}") from error
    finally:
        session.measuring.close()
        session.searching.close()
    # Every process makes its own masks; before they are used, all must be the same.
    session.check_same("masks", [layer.name for layer in session.pruner.layers], session.pruner.masks)
    if row is not None:
        session.probe_rows.append(row)
        session.epoch_gap = row["gap_bn"] if session.epoch_gap is None else max(session.epoch_gap, row["gap_bn"])
    if session.window.progress(session.step) == 1:
        measure_just_pruned(session)
    session.totals["mask_seconds"] = session.totals.get("mask_seconds", 0) + time.perf_counter() - started


def measure_just_pruned(session: Session) -> None:
    """Measure top-1 for `Recovery` in the present state, once a run and if asked; all is left as it was."""
    recovery = session.recovery
    if recovery is None or recovery.just_pruned is not None:
        return
    session.synchronise()
    with ExitStack() as stack:
        for walker in session.walkers:
            stack.enter_context(walker.trial())
        stack.enter_context(session.pruner.masked_training())
        recovery.just_pruned = recovery.top1()


def _forward_backward(session: Session, images: Tensor, labels: Tensor) -> tuple[float, int, int]:
    """Compute the gradients of a batch's mean loss, in `accumulate` micro-batches.

    Returns:
        The mean loss, the number of correct answers and the number of images, over all processes.
    """
    settings, targets = session.settings, labels
    if session.mixing:
        images, targets = session.mixing(images, labels, session.step)
    losses, correct = [], 0
    parts = [tensor.tensor_split(settings.accumulate) for tensor in (images, targets, labels)]
    for i, (part, target, label) in enumerate(zip(*parts, strict=True), start=1):
        with _averaging_gradients(session, last=i == settings.accumulate):
            with torch.autocast(part.device.type, AUTOCAST.get(settings.precision), settings.precision in AUTOCAST):
                logits = session.forward(part)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=settings.label_smoothing)
            loss = loss * (len(part) / len(images))
            minimised = session.quantizer.weighed(loss) if session.quantizer else loss
            session.scaler.scale(minimised).backward()
        losses.append(loss.item())
        correct += int((logits.argmax(1) == label).sum())
    total, correct = session.processes.sum([math.fsum(losses), correct])
    loss = total / session.processes.size
    if not math.isfinite(loss):
        session.diverged(f"the loss is {loss}")
    return loss, int(correct), len(labels) * session.processes.size


def _averaging_gradients(session: Session, last: bool) -> AbstractContextManager:
    """Average gradients over processes once a step, with the last micro-batch."""
    if last or not session.processes.distributed:
        return nullcontext()
    return session.forward.no_sync()


def _update(session: Session) -> None:
    """Do the optimizer's step with the walkers' rules around it; `before_step` sees unscaled, unclipped gradients."""
    scaler, optimizer, clip_norm = session.scaler, session.optimizer, session.settings.clip_norm
    scaler.unscale_(optimizer)
    for walker in session.walkers:
        walker.before_step(optimizer, session.step)
    if clip_norm is not None:
        norm = nn.utils.clip_grad_norm_(session.model.parameters(), clip_norm).item()
        # Clipping by such a norm would make weights NaN; in fp16 the scaler skips the step instead.
        if not math.isfinite(norm) and not scaler.is_enabled():
            session.diverged(f"the gradient's norm is {norm}")
    scaler.step(optimizer)
    scaler.update()
    if scaler.is_enabled() and scaler.get_scale() < LEAST_SCALE:
        session.diverged(f"gradients are not finite in fp16 at any scale down to {LEAST_SCALE:.1g}")
    session.pruner.after_step(optimizer)
