"""The end of a run: finalise, verify, evaluate once, draw, summarise."""

import logging
from pathlib import Path
from typing import Any

from midstate.common.errors import RunFailed
from midstate.common.files import write_csv
from midstate.common.numbers import EPSILON
from midstate.compaction import count
from midstate.engine.evaluate import evaluate
from midstate.engine.sensitivity import COLUMNS, sensitivities
from midstate.engine.session import Session
from midstate.models import classifier_names
from midstate.quantization import without_input_quantisers
from midstate.quantization.report import size_in_bytes, stored_and_index
from midstate.runs.plan import Plan
from midstate.runs.recorder import Recorder
from midstate.sparsity import Pruner
from midstate.sparsity.allocations.extracted import LEAST, is_extracted

log = logging.getLogger(__name__)
NAMED = 100  # images that a message names at most


def finish(recorder: Recorder) -> dict[str, Any]:
    """Finalise the model, evaluate it once on `trainer.final_images`, draw, and write the summary.

    Raises:
        RunFailed: the finished weights do not obey the pattern or their bits, or a file cannot be written.
    """
    session, directory = recorder.session, recorder.directory
    pruner, model, processes = session.pruner, session.model, session.processes
    targets, kept, nominal = pruner.targets(), pruner.kept(), pruner.nominal_densities()
    session.take_average()
    quantizer = session.quantizer
    if quantizer:
        if over := quantizer.over_budget():
            log.warning(
                f"warning: too many gates are open at the end of training: of their budgets, bits take of {over}; "
                "a larger quantizer.gate_lr, optimizer.lr or more steps close more of them"
            )
        quantizer.finalise()  # before the pruner, which folds the masked weights
    pruner.finalise()
    verified = pruner.verify()
    if verified is False:
        raise RunFailed(_what_is_wrong(pruner))
    if quantizer and not quantizer.verify():
        raise RunFailed("a finished layer has values that its bits do not allow; this is a defect, please report it")

    scheme = pruner.scheme(quantizer.scheme() if quantizer else None)
    directory.write("the finished network", lambda: directory.write_network(model, scheme))
    test = evaluate(model, getattr(session.data, session.settings.final_images), processes)
    recovery = session.recovery.report() if session.recovery else None
    layers = [
        {"name": layer.name, "shape": list(layer.weight.shape), "depth": layer.depth, "target": target, "kept": share}
        for layer, target, share in zip(pruner.layers, targets, kept, strict=True)
    ]
    states, counted = session.states(), _counted(session, nominal)
    allocation = pruner.allocation_report(counted)
    _warn_of_budget(pruner, allocation)
    skipped = session.skipped()
    if skipped and processes.size > 1:  # each process has logged only its own
        log.warning(f"warning: skipped {len(skipped)} images in all: {', '.join(sorted(skipped)[:NAMED])}")

    def report() -> dict[str, Any]:
        with directory.writing("sensitivity.csv"):
            _measure_sensitivities(session, directory.path / "sensitivity.csv", recorder.plan.seed)
        summary = recorder.write_summary(
            "finished",
            top1=test["top1"],
            top5=test["top5"],
            loss=test["loss"],
            val_top1=session.rows[-1]["val/top1"],
            top1_gap=session.probe_rows[-1]["gap_bn"] if session.probe_rows else None,
            **counted,
            pattern_verified=verified,
            allocation=allocation,
            flipflop=pruner.flipflop(),
            layers=layers,
            layers_left_dense=_left_dense(session),
            states=states,
            **({"final_images": "validation"} if session.settings.final_images == "validation" else {}),
            **({} if skipped is None else {"images_skipped": len(skipped)}),
            **({"quantization": _quantization(session)} if quantizer else {}),
            **({"recovery": recovery} if recovery else {}),
            **({"permuted": dict(pruner.reordered)} if pruner.reordered else {}),
            images_per_second=sum(row["images_per_second"] for row in session.rows) / len(session.rows),
        )
        recorder.track(summary, show(directory.path, summary, recorder.plan))
        return summary

    return processes.on_rank_zero(report)


def _counted(session: Session, nominal: list[float]) -> dict[str, int | float]:
    """Count parameters and MACs, input quantisers left out: a rounded input depends on the image if the input does."""
    pruner = session.pruner
    with without_input_quantisers(session.model):
        return count(session.model, pruner.layers, nominal, pruner.prunes_filters, session.uses, session.data.shape)


def _warn_of_budget(pruner: Pruner, allocation: dict[str, float] | None) -> None:
    """Warn if the finished network, extracted, exceeds the allocation's budget or is more than 1 % below it."""
    slack = (allocation or {}).get(f"{(budget := getattr(pruner.method.allocation, 'budget', None))}_slack")
    if is_extracted(pruner.method.allocation) and not 0 <= slack <= 1 - LEAST + EPSILON:
        log.warning(
            f"warning: pruner.budget={budget}: the finished network has {100 * (1 - slack):.2f} % of what the uniform "
            "allocation had when levels were chosen, for other filters are pruned than then; they are the same with "
            "pruner/path=direct pruner.regrow=never, from trained weights"
        )


def _quantization(session: Session) -> dict[str, Any]:
    """The quantizer's report, and the bytes of the packed network."""
    pruner, quantizer = session.pruner, session.quantizer
    pattern, levels = pruner.method.pattern, pruner.layer_levels or []
    stored = {
        layer.name: stored_and_index(pattern, layer.weight.shape, level)
        for layer, level in zip(pruner.layers, levels, strict=bool(levels))
    }
    return {**quantizer.report(), "bytes": size_in_bytes(session.model, quantizer.layers, stored)}


def show(directory: Path, summary: dict[str, Any], plan: Plan) -> list[Path]:
    """Draw the figures and write report.html if asked, and return the PNG files; after an OSError warn, return none.

    Args:
        directory: the run's, with its tables and configuration.
        summary: of the finished run.
        plan: of the run; gives the title and `machine.figures`.
    """
    if not plan.config["machine"]["figures"]:
        return []
    from midstate.runs.figures import draw_run  # matplotlib takes a second to import
    from midstate.runs.page import write_page

    try:
        figures = draw_run(directory, summary["layers"], summary["states"], plan.title)
        write_page(directory, summary, plan.title)
        return figures
    except OSError as error:
        log.warning(
            f"warning: figures cannot be written ({error.strerror or error}); the run goes on, and the same command "
            "draws them when it is finished"
        )
        return []


def _left_dense(session: Session) -> list[dict[str, Any]] | None:
    """The layers left dense and the reasons, see `Pruner.left_dense`; None in a dense run."""
    if session.pruner.method.dense:
        return None
    left = session.pruner.left_dense(session.model, classifier_names(session.model))
    return [{"name": layer.name, "shape": list(layer.weight.shape), "why": why} for layer, why in left]


def _what_is_wrong(pruner: Pruner) -> str:
    """Message for finished weights that do not obey the pattern."""
    if dead := [layer.name for layer in pruner.layers if not layer.weight.any()]:
        return (
            f"collapsed: training has driven every weight of {', '.join(dead)} to zero; a smaller "
            "optimizer.weight_decay, pruner.decay or sparsity may help"
        )
    return "the finished weights do not obey the pattern; this is a defect, please report it"


def _measure_sensitivities(session: Session, path: Path, seed: int) -> None:
    """Write sensitivity.csv, if asked, from the finished network."""
    share, kinds = session.settings.sensitivity, session.settings.sensitivity_kinds
    if share is None:
        return
    first = session.data.validation.first(session.settings.probe_images)
    write_csv(path, COLUMNS, sensitivities(session.model, session.pruner.layers, first, share, seed, kinds))
