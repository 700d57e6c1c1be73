"""The training loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from tqdm import tqdm

from midstate.config import RunFailed
from midstate.data import Batches, Images
from midstate.metrics import evaluate
from midstate.optimizers import Rate
from midstate.probes import GapProbe
from midstate.sensitivity import KINDS
from midstate.sparsity import Pruner, Unrankable, checks, steps_of

DEVICES = ("auto", "cpu", "cuda")
MOST_THREADS = 1024  # what cannot be begun aborts the process
PRECISIONS = ("auto", "fp32", "bf16")


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

    def __post_init__(self) -> None:
        checks.integer("epochs", self.epochs, 1)
        checks.integer("batch_size", self.batch_size, 1)
        checks.number("label_smoothing", self.label_smoothing, 0, 1)
        if self.clip_norm is not None:
            checks.number("clip_norm", self.clip_norm, 1e-12)
        if self.max_steps_per_epoch is not None:
            checks.integer("max_steps_per_epoch", self.max_steps_per_epoch, 1)
        checks.one_of("device", self.device, DEVICES)
        if self.threads != "auto":
            checks.integer("threads", self.threads, 1, MOST_THREADS)
        checks.boolean("probes", self.probes)
        checks.one_of("precision", self.precision, PRECISIONS)
        checks.boolean("channels_last", self.channels_last)
        if self.sensitivity is not None:
            checks.number("sensitivity", self.sensitivity, 0, 1)
        for kind in checks.texts("sensitivity_kinds", self.sensitivity_kinds, ",".join(KINDS)):
            checks.one_of("sensitivity_kinds", kind, KINDS)
        if not isinstance(self.checkpoint_every, str) or steps_of("checkpoint_every", self.checkpoint_every, 1, 1) < 1:
            raise ValueError(
                f"checkpoint_every={self.checkpoint_every!r}: must be epochs such as '1ep' or steps such as '500it'"
            )


@dataclass
class Session:
    """What a run is made of, and all that changes while it runs."""

    settings: Trainer
    data: Images
    model: nn.Module
    uses: dict[str, int]  # how often one image uses each weight of the plain model
    pruner: Pruner
    optimizer: Optimizer
    rate: Rate
    batches: Batches
    probe: GapProbe | None
    step: int = 0  # optimizer steps done
    rows: list[dict[str, Any]] = field(default_factory=list)  # metrics.csv, one row an epoch
    probe_rows: list[dict[str, Any]] = field(default_factory=list)  # probes.csv
    losses: list[float] = field(default_factory=list)  # losses.csv, the training loss of every step
    totals: dict[str, float] = field(default_factory=dict)  # sums over the epoch so far
    epoch_gap: float | None = None  # the epoch's largest gap_bn so far

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.settings.epochs * self.batches.steps_per_epoch

    def check_finite(self) -> None:
        """Raise RunFailed if a weight is not a finite number: the step after one with a finite loss may come to that.

        Asked before a checkpoint, so that the last ones stay good.
        """
        for name, tensor in self.model.state_dict().items():
            if not bool(tensor.isfinite().all()):
                _diverged(self, f"{name} holds numbers that are not finite")

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on as if it had never stopped."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict(),
            "probe": self.probe.state if self.probe else 0,
            "rows": self.rows,
            "probe_rows": self.probe_rows,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "totals": self.totals,
            "epoch_gap": self.epoch_gap,
            "rng": torch.get_rng_state(),
            **({} if self.data.skipped is None else {"skipped": dict(self.data.skipped)}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back `state_dict` and the step beside it."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pruner.load_state_dict(state["pruner"])
        if self.probe:
            self.probe.state = state["probe"]
        self.step, self.rows, self.probe_rows = state["step"], state["rows"], state["probe_rows"]
        self.losses, self.totals, self.epoch_gap = state["losses"].tolist(), state["totals"], state["epoch_gap"]
        torch.set_rng_state(state["rng"].cpu())
        if self.data.skipped is not None:
            self.data.skipped.update(state["skipped"])


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
            disable=None,
            unit="step",
        ) as bar:
            for images, labels in bar:
                train_step(session, images, labels)
                if not bar.disable:
                    bar.set_postfix_str(_progress(session), refresh=False)
                if stop_requested():
                    checkpoint()
                    return False
                if session.step % every == 0 and session.step % steps_per_epoch:
                    checkpoint()
        end_of_epoch(_close_epoch(session))
        if session.step % every == 0 or session.step == session.total_steps:
            checkpoint()
    return True


def train_step(session: Session, images: Tensor, labels: Tensor) -> None:
    """One optimizer step: masks, learning rate, forward, backward, update."""
    if session.pruner.due(session.step):
        _refresh(session)
    started = time.perf_counter()
    for group in session.optimizer.param_groups:
        group["lr"] = session.rate.at(session.step)
    settings = session.settings
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        logits = session.model(images)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
    if not math.isfinite(loss.item()):
        _diverged(session, f"the loss is {loss.item()}")
    session.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    session.pruner.before_step(session.optimizer)
    if settings.clip_norm is not None:
        norm = nn.utils.clip_grad_norm_(session.model.parameters(), settings.clip_norm).item()
        if not math.isfinite(norm):  # clipped, it would be NaN in every weight
            _diverged(session, f"the gradient's norm is {norm}")
    session.optimizer.step()
    session.pruner.after_step(session.optimizer)
    session.step += 1
    session.losses.append(loss.item())
    correct = int((logits.argmax(1) == labels).sum())
    seconds = time.perf_counter() - started
    for name, value in (
        ("loss", loss.item() * len(labels)),
        ("correct", correct),
        ("images", len(labels)),
        ("seconds", seconds),
    ):
        session.totals[name] = session.totals.get(name, 0) + value


def _refresh(session: Session) -> None:
    """Measure the jump that the masks are about to make, if there is one, and refresh them."""
    started = time.perf_counter()
    try:
        row = session.probe.before_refresh(session.step) if session.probe else None
        session.pruner.refresh(session.step)
    except Unrankable as error:
        _diverged(session, str(error))
    if row is not None:
        session.probe_rows.append(row)
        session.epoch_gap = row["gap_bn"] if session.epoch_gap is None else max(session.epoch_gap, row["gap_bn"])
    session.totals["mask_seconds"] = session.totals.get("mask_seconds", 0) + time.perf_counter() - started


def _close_epoch(session: Session) -> dict[str, Any]:
    """Refresh the masks, evaluate on validation, and make the epoch's row of metrics.csv."""
    pruner, totals = session.pruner, session.totals
    if pruner.open(session.step):
        _refresh(session)
    started = time.perf_counter()
    validation = evaluate(session.model, session.data.validation)
    if not math.isfinite(validation["loss"]):
        _diverged(session, f"the validation loss is {validation['loss']}")
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


def _diverged(session: Session, what: str) -> NoReturn:
    raise RunFailed(
        f"diverged: {what} at step {session.step} (epoch {len(session.rows) + 1}); "
        "a smaller optimizer.lr, or trainer.clip_norm=1, may help"
    )


def _progress(session: Session) -> str:
    totals = session.totals
    return (
        f"loss {totals['loss'] / totals['images']:.3f}, top1 {100 * totals['correct'] / totals['images']:.1f} %, "
        f"{session.pruner.describe(session.step)}"
    )
