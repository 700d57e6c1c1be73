"""The training loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from midstate.common import checks
from midstate.metrics import evaluate
from midstate.sensitivity import KINDS
from midstate.session import Session
from midstate.sparsity import steps_of
from midstate.step import refresh, train_step

DEVICES = ("auto", "cpu", "cuda")
MOST_THREADS = 1024  # what cannot be begun aborts the process
MODES = ("train", "finetune")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Trainer:
    """Settings of the loop; see conf/trainer/default.yaml."""

    epochs: int
    batch_size: int
    label_smoothing: float
    clip_norm: float | None
    max_steps_per_epoch: int | None
    device: str
    threads: int | str
    probes: bool
    checkpoint_every: str
    sensitivity: float | None = None
    sensitivity_kinds: list[str] = field(default_factory=lambda: list(KINDS))
    precision: str = "fp32"
    channels_last: bool = False
    accumulate: int = 1
    compile: bool = False
    ema: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    sync_batchnorm: bool = False
    mode: str = "train"

    def __post_init__(self) -> None:
        checks.integer("epochs", self.epochs, 1)
        checks.integer("batch_size", self.batch_size, 1)
        checks.number("label_smoothing", self.label_smoothing, 0, 1)
        if self.clip_norm is not None:
            checks.number("clip_norm", self.clip_norm, 1e-12)
        if self.max_steps_per_epoch is not None:
            checks.integer("max_steps_per_epoch", self.max_steps_per_epoch, 1)
        checks.one_of("mode", self.mode, MODES)
        checks.one_of("device", self.device, DEVICES)
        if self.threads != "auto":
            checks.integer("threads", self.threads, 1, MOST_THREADS)
        checks.boolean("probes", self.probes)
        checks.one_of("precision", self.precision, PRECISIONS)
        for name in ("channels_last", "compile", "sync_batchnorm"):
            checks.boolean(name, getattr(self, name))
        checks.integer("accumulate", self.accumulate, 1)
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate={self.accumulate}: must be at most batch_size={self.batch_size}")
        if self.ema is not None:
            checks.number("ema", self.ema, 0, 1)
        for name in ("mixup", "cutmix"):
            checks.number(name, getattr(self, name), 0)
        if self.sensitivity is not None:
            checks.number("sensitivity", self.sensitivity, 0, 1)
        for kind in checks.texts("sensitivity_kinds", self.sensitivity_kinds, ",".join(KINDS)):
            checks.one_of("sensitivity_kinds", kind, KINDS)
        if not isinstance(self.checkpoint_every, str) or steps_of("checkpoint_every", self.checkpoint_every, 1, 1) < 1:
            raise ValueError(
                f"checkpoint_every={self.checkpoint_every!r}: must be epochs such as '1ep' or steps such as '500it'"
            )


def train(
    session: Session,
    checkpoint: Callable[[], None],
    end_of_epoch: Callable[[dict[str, Any]], None],
    stop_requested: Callable[[], bool],
) -> bool:
    """Train to the end, or until a stop is requested.

    Args:
        session: where to go on from; it is changed in place.
        checkpoint: saves the session.
        end_of_epoch: takes the row of each finished epoch, before its checkpoint.
        stop_requested: asked after every step, and between the measurements of an allocation.

    Returns:
        True when finished, False when stopped (a checkpoint is saved).

    Raises:
        RunFailed: the loss is no longer a finite number.
    """

    def between_measurements() -> None:
        if stop_requested():
            raise _Stopped
        session.measuring.update()

    session.pruner.on_measuring(between_measurements)
    try:
        return _train(session, checkpoint, end_of_epoch, stop_requested)
    except _Stopped:  # what was measured so far is measured again
        checkpoint()
        return False


class _Stopped(Exception):
    """A stop was requested while an allocation was measuring."""


def _train(
    session: Session,
    checkpoint: Callable[[], None],
    end_of_epoch: Callable[[dict[str, Any]], None],
    stop_requested: Callable[[], bool],
) -> bool:
    steps_per_epoch = session.batches.steps_per_epoch
    every = max(
        1, steps_of("checkpoint_every", session.settings.checkpoint_every, steps_per_epoch, session.total_steps)
    )
    for epoch in range(len(session.rows), session.settings.epochs):
        session.model.train()
        first_step = session.step - epoch * steps_per_epoch
        batches = session.batches.epoch(epoch, first_step)
        with tqdm(
            batches,
            f"epoch {epoch + 1}/{session.settings.epochs}",
            total=steps_per_epoch,
            initial=first_step,
            leave=False,
            disable=None if session.processes.first else True,
            unit="step",
        ) as bar:
            waited = time.perf_counter()
            for images, labels in bar:
                session.totals["seconds"] = session.totals.get("seconds", 0) + time.perf_counter() - waited
                train_step(session, images, labels)
                if not bar.disable:
                    bar.set_postfix_str(_progress(session), refresh=False)
                if stop_requested():
                    checkpoint()
                    return False
                if session.step % every == 0 and session.step % steps_per_epoch:
                    checkpoint()
                waited = time.perf_counter()
        end_of_epoch(_close_epoch(session))
        if session.step % every == 0 or session.step == session.total_steps:
            checkpoint()
    return True


def _close_epoch(session: Session) -> dict[str, Any]:
    """Refresh the masks, evaluate on validation, and make the epoch's row of metrics.csv."""
    pruner, totals = session.pruner, session.totals
    if pruner.open(session.step):
        refresh(session)
    started = time.perf_counter()
    session.check_same("weights", *zip(*session.model.named_parameters(), strict=True))
    session.synchronise()
    with session.averaged():
        validation = evaluate(session.model, session.data.validation, session.processes)
    if not math.isfinite(validation["loss"]):
        session.diverged(f"the validation loss is {validation['loss']}")
    row = {
        "epoch": len(session.rows) + 1,
        "step": session.step,
        "lr": session.rate.at(session.step - 1),
        "progress": pruner.window.progress(session.step),
        **pruner.end_epoch(),
        "gap": session.epoch_gap,
        "train/loss": totals["loss"] / totals["images"],
        "train/top1": 100 * totals["correct"] / totals["images"],
        "val/loss": validation["loss"],
        "val/top1": validation["top1"],
        "images_per_second": totals["images"] / totals["seconds"],
        "seconds": totals["seconds"] + totals.get("mask_seconds", 0) + time.perf_counter() - started,
    }
    session.rows.append(row)
    session.totals, session.epoch_gap = {}, None
    return row


def _progress(session: Session) -> str:
    totals = session.totals
    return (
        f"loss {totals['loss'] / totals['images']:.3f}, top1 {100 * totals['correct'] / totals['images']:.1f} %, "
        f"{session.pruner.describe(session.step)}"
    )
