"""Lines and tables that a run prints."""

from collections import Counter
from math import prod
from typing import Any

LEAST_OTHER = 5e-5  # the smallest share of weights that is shown: 0.01 % after rounding


def epoch_line(row: dict[str, Any], epochs: int, state: str) -> str:
    """One line for one epoch."""
    gap = "" if row["gap"] is None else f"  gap {row['gap']:+.1f}"
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['train/loss']:.3f}  "
        f"train {row['train/top1']:5.1f} %  val {row['val/top1']:5.1f} %  kept {100 * row['kept']:5.1f} %  "
        f"{state}{gap}  {row['seconds']:.1f} s"
    )


def result_table(summary: dict[str, Any]) -> str:
    """The result as an aligned table of names and values."""
    lines = result_lines(summary)
    width = max(len(name) for name, _ in lines)
    return "\n".join(["", *(f"{name:<{width}}  {value}" for name, value in lines)])


def result_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The result as names and values."""
    gap, verified = summary["top1_gap"], summary["pattern_verified"]
    typed, network = summary.get("overrides"), summary.get("model_name", summary["model"])
    measured_on = summary.get("final_images", "test")
    return [
        (
            "run",
            f"{network} on {summary['data']}, {summary['pruner']}, {summary['schedule']}, "
            f"seed {summary['seed']}, {summary['epochs']} epochs",
        ),
        *([("typed", " ".join(typed))] if typed else ()),
        (f"top-1 / top-5 ({measured_on})", f"{summary['top1']:.2f} % / {summary['top5']:.2f} %"),
        ("pattern verified", {True: "yes, on the finished weights", False: "NO", None: "nothing pruned"}[verified]),
        (
            "sparsity",
            f"{100 * summary['sparsity']:.2f} % of {summary['params_prunable']:,} prunable weights "
            f"in {len(summary['layers'])} layers",
        ),
        *_other_zeros(summary),
        *_left_dense(summary),
        ("parameters", f"{summary['params_nonzero']:,} of {summary['params_total']:,} are not zero"),
        (
            "MACs an image",
            f"{summary['macs_sparse']:,} of {summary['macs_dense']:,}"
            + (f"; nominally {summary['macs_nominal']:,}" if "macs_nominal" in summary else ""),
        ),
        *_quantization(summary.get("quantization")),
        *_allocation(summary.get("allocation")),  # absent from older summaries
        (
            "last jump",
            "none probed"
            if gap is None
            else f"{abs(gap):.1f} points of top-1 {'gained' if gap < 0 else 'lost'} (BatchNorm re-estimated)",
        ),
        *_recovery(summary.get("recovery")),
        ("time", f"{summary['wall_seconds']:.1f} s, {summary['images_per_second']:,.0f} training images a second"),
    ]


def _other_zeros(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Zeros beyond those of the masks, with their likely cause; empty below LEAST_OTHER."""
    kept = sum(layer["kept"] * prod(layer["shape"]) for layer in summary["layers"]) / summary["params_prunable"]
    other = summary["sparsity"] - (1 - kept)
    if other < LEAST_OTHER:
        return []
    why = "mostly without a gradient since a mask zeroed them"
    if summary.get("quantization"):
        why = "mostly rounded to the 0 of their grid"
    text = f"{100 * kept:.2f} % of the prunable weights, of which {100 * other:.2f} points are zero all the same, {why}"
    return [("kept by masks", text)]


def _left_dense(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Layers left dense, their share and the reasons; empty for dense runs and older summaries."""
    left = summary.get("layers_left_dense")
    if not left:
        return []
    share = sum(prod(layer["shape"]) for layer in left) / summary["params_total"]
    reasons = Counter(layer["why"] for layer in left)
    why = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    return [("left dense", f"{len(left)} layers, {100 * share:.2f} % of all parameters ({why})")]


def _quantization(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Bits and size of a quantised network; empty for others."""
    if found is None:
        return []
    inputs = "" if found["activation_bits"] is None else f", of inputs {found['activation_bits']:.2f}"
    size, costs = found["bytes"], {"bitops_share": "bitops", "latency_share": "latency"}
    shares = ", ".join(
        f"{100 * found[key]:.1f} % of the {name} at 8 bits" for key, name in costs.items() if key in found
    )
    return [
        ("bits", f"of weights {found['weight_bits']:.2f} in the mean{inputs}; {shares}"),
        (
            "size",
            f"{size['total']:,} bytes (values {size['values']:,}, indices {size['indices']:,}) of {size['dense']:,}",
        ),
    ]


def _recovery(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Top-1 on unused training images just after pruning and at the end; empty if not measured."""
    if found is None:
        return []
    text = (
        f"{found['just_pruned']:.2f} % when just pruned, {found['finished']:.2f} % when finished, on "
        f"{found['images']:,} unused training images (BatchNorm re-estimated)"
    )
    return [("recovery", text)]


def _allocation(report: dict[str, float] | None) -> list[tuple[str, str]]:
    """How a non-uniform allocation compares with the uniform one; empty for others."""
    if report is None or not report["moved"]:
        return []
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    nominal, extracted = (
        [round(-100 * report[name], 2) + 0.0 for name in names if name in report]
        for names in (("params_slack", "macs_slack"), ("extracted_params_slack", "extracted_macs_slack"))
    )
    more = "; extracted, parameters {:+.2f} %, MACs {:+.2f} %".format(*extracted) if extracted else ""
    return [
        (
            "against uniform",
            "weights {:+.2f} %, MACs {:+.2f} %".format(*nominal)
            + f"{more}; {100 * report['moved']:.0f} % of the weights left the uniform level",
        )
    ]
