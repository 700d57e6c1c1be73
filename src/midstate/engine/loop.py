"""The training loop."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from midstate.common.errors import RunFailed
from midstate.common.times import steps_of
from midstate.engine.evaluate import evaluate
from midstate.engine.session import Session
from midstate.engine.step import measure_just_pruned, refresh, train_step
from midstate.sparsity.search import Search

log = logging.getLogger(__name__)
EPISODES_SAVED = 10  # trials of schemes between checkpoints


def train(
    session: Session,
    checkpoint: Callable[[], None],
    end_of_epoch: Callable[[dict[str, Any]], None],
    stop_requested: Callable[[], bool],
    end_of_episode: Callable[[], None] = lambda: None,
) -> bool:
    """Train to the end, or until a stop is requested.

    Args:
        session: the state to continue from; changed in place.
        checkpoint: saves the session.
        end_of_epoch: called with the row of each finished epoch, before its checkpoint.
        stop_requested: asked after every step, and between the measurements and the trials of an allocation.
        end_of_episode: called before every trial of a scheme, so that it can record the trial before.

    Returns:
        True when finished, False when stopped (a checkpoint is saved, unless the stop has also ended the compiler).

    Raises:
        RunFailed: the loss is not finite, or masks or bits cannot be refreshed, see `refresh`.
    """

    def between_measurements() -> None:
        if stop_requested():
            raise _Stopped
        session.measuring.update()

    def between_episodes() -> None:
        search = session.search
        end_of_episode()
        if stop_requested():
            raise _Stopped
        if search.rows and len(search.rows) % EPISODES_SAVED == 0:
            checkpoint()
        session.searching.update(len(search.rows), session.num_episodes, _best(search))

    for walker in session.walkers:
        walker.on_measuring(between_measurements)
    if session.search:
        session.search.between[:] = [between_episodes]
    try:
        return _train(session, checkpoint, end_of_epoch, stop_requested)
    except _Stopped:  # a resumed run repeats the measurements, not the finished trials
        checkpoint()
        return False
    except Exception as error:
        if not _stopped_compiler(session, error, stop_requested):
            raise
        log.info(
            "the compiler was stopped, too, in the midst of a step: steps since the last checkpoint are done again"
        )
        return False


class _Stopped(Exception):
    """A stop was requested while an allocation was measuring, or trying schemes."""


def _stopped_compiler(session: Session, error: Exception, stop_requested: Callable[[], bool]) -> bool:
    """Tell whether a step failed because the signal that asks for a stop has ended the compiler, as Ctrl-C does.

    Only for a run with one process: several processes may be at different steps.
    """
    alone = session.processes.size == 1 and session.settings.compile and not isinstance(error, RunFailed)
    return alone and stop_requested()


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
    if session.dense:
        measure_just_pruned(session)
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
            disable=None if session.processes.is_rank_zero else True,
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
    pruner, quantizer, totals = session.pruner, session.quantizer, session.totals
    if due := [walker for walker in session.walkers if walker.refreshes_at_eval(session.step)]:
        refresh(session, due)
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
        "progress": session.window.progress(session.step),
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
    session.bit_rows += quantizer.rows(row["epoch"]) if quantizer else []
    session.totals, session.epoch_gap = {}, None
    return row


def _best(search: Search) -> str:
    """The best scheme of a search so far, in a few words."""
    if not search.rows:
        return ""
    best, last = max(search.rows, key=lambda row: row["reward"]), search.rows[-1]
    return (
        f"best {best['top1']:.1f} % (reward {best['reward']:+.2f}), budget {100 * last['cost'] / last['limit']:.1f} %"
    )


def _progress(session: Session) -> str:
    totals = session.totals
    return (
        f"loss {totals['loss'] / totals['images']:.3f}, top1 {100 * totals['correct'] / totals['images']:.1f} %, "
        f"{session.describe()}"
    )
