"""The figures on speed that README.md quotes from the records of results/bench."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from midstate.common.project import ROOT

RECORDS = ROOT / "results" / "bench"


def quoted(records: Path) -> str:
    """Render three figures as a Markdown table, with the machines that they were measured on below."""
    read = {name: json.loads((records / f"{name}.json").read_text()) for name in ("first_run", "step", "mask")}
    seconds = median(row["wall seconds"] for row in read["first_run"]["rows"])
    steps = {row["pruner"]: row["ratio_to_dense"] for row in read["step"]["rows"] if _is_default_fp32(row)}
    (mask,) = (row for row in read["mask"]["rows"] if row["masks"] == "1:16")
    lines = [
        "| what | figure |",
        "|---|---|",
        f"| the first command above, start to verified 1:16 | {seconds:.0f} s |",
        f"| a training step of `nm_block`, wide ResNet-18, masks refreshed at every step | {steps['nm_block']:.2f} "
        f"dense steps (SR-STE's published loop: {steps['SR-STE, published loop']:.2f}) |",
        f"| 1:16 masks of all convolutions of ResNet-50 | {mask['ours, copies']:.1f} copies of the weights, "
        f"{mask['times faster than argsort+scatter']:.0f} times faster than argsort and scatter |",
    ]
    notes = dict.fromkeys(_note(each["machine"]) for each in read.values())
    return "\n".join(lines) + f"\n\n{'; '.join(notes)}."


def _is_default_fp32(row: dict[str, Any]) -> bool:
    return row["settings"] == "fp32" and row["refresh"] == "default"


def _note(machine: dict[str, Any]) -> str:
    return f"{machine['processor']}, {machine['cores']} cores, {machine['device']}; torch {machine['torch']}"
