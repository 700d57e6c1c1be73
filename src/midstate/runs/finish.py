"""The end of a run: finalise, verify, measure once on test data, draw, summarise."""

import logging
from pathlib import Path
from typing import Any

from midstate.common.errors import RunFailed
from midstate.common.files import write_atomically, write_csv
from midstate.compaction import counting
from midstate.engine.evaluate import evaluate
from midstate.engine.probes import NUM_IMAGES
from midstate.engine.sensitivity import COLUMNS, sensitivities
from midstate.engine.session import Session
from midstate.runs import checkpoint
from midstate.runs.plan import Plan
from midstate.runs.recorder import Recorder
from midstate.sparsity import Pruner

log = logging.getLogger(__name__)
NAMED = 100  # images that a message names at most


def finish(recorder: Recorder) -> dict[str, Any]:
    """Finalise the model, measure it once on test data, draw, and write the summary.

    Raises:
        RunFailed: the weights are not what was promised, or something cannot be written.
    """
    plan, session = recorder.plan, recorder.session
    pruner, model, processes = session.pruner, session.model, session.processes
    targets, kept, nominal = pruner.targets(), pruner.kept(), pruner.nominal_densities()
    session.take_average()
    pruner.finalise()
    verified = pruner.verify()
    if verified is False:
        raise RunFailed(_what_is_wrong(pruner))

    def write_network() -> None:
        with recorder.writing("the finished network"):
            checkpoint.save_final(plan.directory / "checkpoints", model)
            if scheme := pruner.scheme():
                write_atomically(plan.directory / "scheme.json", scheme.encode())

    processes.agree(write_network)
    test = evaluate(model, session.data.test, processes)
    layers = [
        {"name": layer.name, "shape": list(layer.weight.shape), "depth": layer.depth, "target": target, "kept": share}
        for layer, target, share in zip(pruner.layers, targets, kept, strict=True)
    ]
    states = pruner.states()
    skipped = session.skipped()
    if skipped and processes.size > 1:  # of the others' nobody has heard yet
        log.warning(f"warning: skipped {len(skipped)} images in all: {', '.join(sorted(skipped)[:NAMED])}")

    def report() -> dict[str, Any]:
        with recorder.writing("sensitivity.csv"):
            _measure_sensitivities(plan, session)
        figures = draw(plan.directory, layers, states)
        summary = recorder.write_summary(
            "finished",
            top1=test["top1"],
            top5=test["top5"],
            loss=test["loss"],
            val_top1=session.rows[-1]["val/top1"],
            top1_gap=session.probe_rows[-1]["gap_bn"] if session.probe_rows else None,
            **counting.count(model, pruner.layers, nominal, pruner.prunes_filters, session.uses, session.data.shape),
            pattern_verified=verified,
            allocation=pruner.allocation_report(),
            flipflop=pruner.flipflop(),
            layers=layers,
            states=states,
            **({} if skipped is None else {"images_skipped": len(skipped)}),
            images_per_second=sum(row["images_per_second"] for row in session.rows) / len(session.rows),
        )
        recorder.tracker.summarise(summary, figures)
        return summary

    return processes.agree(report)


def draw(directory: Path, layers: list[dict[str, Any]], states: list[str]) -> list[Path]:
    """Draw a run's figures from its tables; where they cannot be written, warn and return none.

    Args:
        directory: the run's.
        layers: as in the summary.
        states: as in the summary.
    """
    from midstate.runs.figures import draw_run  # matplotlib takes a second to import

    try:
        return draw_run(directory, layers, states)
    except OSError as error:
        log.warning(
            f"warning: figures cannot be written ({error.strerror or error}); the run goes on, and the same command "
            "draws them when it is finished"
        )
        return []


def _what_is_wrong(pruner: Pruner) -> str:
    """Why finished weights are not what was promised."""
    if dead := [layer.name for layer in pruner.layers if not layer.weight.any()]:
        return (
            f"collapsed: training has driven every weight of {', '.join(dead)} to zero; a smaller "
            "optimizer.weight_decay, pruner.decay or sparsity may help"
        )
    return "the finished weights do not obey the pattern; this is a defect, please report it"


def _measure_sensitivities(plan: Plan, session: Session) -> None:
    """Write sensitivity.csv, if asked, from the finished network."""
    share = session.settings.sensitivity
    if share is None:
        return
    first = session.data.validation.first(NUM_IMAGES)
    kinds = session.settings.sensitivity_kinds
    rows = sensitivities(session.model, session.pruner.layers, first, share, plan.config["seed"], kinds)
    write_csv(plan.directory / "sensitivity.csv", COLUMNS, rows)
