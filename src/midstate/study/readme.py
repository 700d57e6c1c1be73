"""The verdicts in README.md: the answer, and a short line a claim of the second edition."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from midstate.study.answer import answer, headline
from midstate.study.beside import interval
from midstate.study.claims import read_claims
from midstate.study.verdicts import NOT_RUN


def readme_table(results: Path) -> str:
    """The answer and the table of verdicts of claims.csv, in Markdown."""
    rows = pd.read_csv(results / "claims.csv", dtype={"git": str}).to_dict("records")
    lines = [
        answer(rows, brief=True),
        "",
        "| claim | says | verdict | effect [95 % interval], points or as said |",
        "|---|---|---|---|",
    ]
    for claim in read_claims():
        row = headline(claim, rows)
        unit = claim.endpoint.unit if claim.endpoint.unit != "points" else ""
        verdict = row["verdict"] if row else NOT_RUN
        effect = f"{interval(SimpleNamespace(**row))} {unit}".strip() if row and row["seeds"] else "–"
        lines.append(f"| {claim.claim} | {claim.short} | {verdict} | {effect} |")
    return "\n".join(lines)
