"""Caveats on the rows that a claim compares: missing runs, and rows of different versions or machines."""

import pandas as pd

from midstate.study import verdicts
from midstate.study.claims import SCALES, Claim, in_words

# Columns of runs.csv that tell the origin of a row; columns that a table lacks are skipped.
ORIGIN = ("torch", "numerics", "device", "cpu", "threads", "data", "data_digest")


def incomplete(claim: Claim, runs: pd.DataFrame) -> list[str]:
    """The cells of a claim with missing runs, in words."""
    missing = []
    for scale in SCALES:
        for cell in claim.cells(scale):
            rows = verdicts.rows_of(claim, scale, cell, runs)
            seeds = claim.seeds(scale)
            done = len(rows[rows.seed.isin(seeds)])
            planned = len(seeds) * len(claim.arms_in(cell))
            if done < planned:
                missing.append(f"{in_words(scale, cell)}: {_done(done, planned)}")
    return missing


def _done(done: int, planned: int) -> str:
    """How many runs are done and how many are not, in words."""
    if not done:
        return f"none of {planned} runs is done"
    left = planned - done
    return f"{done} of {planned} runs {'is' if done == 1 else 'are'} done, {left} {'is' if left == 1 else 'are'} not"


def mixed_origins(claim: Claim, runs: pd.DataFrame) -> list[str]:
    """The cells of a claim whose rows differ in origin (torch, numerics, device and the like), in words."""
    mixed = []
    for scale in SCALES:
        for cell in claim.cells(scale):
            rows = verdicts.rows_of(claim, scale, cell, runs)
            differing = [
                f"{column} {' and '.join(found)}"
                for column in ORIGIN
                if column in rows and len(found := sorted(rows[column].fillna("not recorded").astype(str).unique())) > 1
            ]
            if differing:
                mixed.append(f"{in_words(scale, cell)}: rows of {'; of '.join(differing)}")
    return mixed
