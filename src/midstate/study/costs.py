"""Costs of arms: parameters and MACs as ratios, arms that diverged, hours that are left."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import pandas as pd

from midstate.common.project import member_folders
from midstate.study.answer import words
from midstate.study.claims import PILOT, PLANNED, Claim
from midstate.study.endpoints import Endpoint
from midstate.study.measuring import Measured, measure
from midstate.study.verdicts import rows_of

COSTS = {"params": "params_sparse", "macs": "macs"}  # cost that a scheme may hold equal: column of runs.csv
EQUAL = (0.99, 1.0)  # ratios to the reference's cost that count as equal, lowest and highest
DIVERGED = 50.0  # top-1 in percent, below which an arm counts as diverged


@dataclass(frozen=True)
class Scheme:
    """A point of the answer's figure: one scheme against the uniform one of its pattern."""

    label: str
    pattern: str
    rate: str
    holds: str  # params, macs, both or nothing
    ratios: dict[str, float]  # of parameters and MACs to the reference's
    gain: Measured

    @property
    def outside(self) -> list[str]:
        """The costs that it should hold equal to the reference's and does not."""
        held = COSTS if self.holds == "both" else [self.holds] if self.holds in COSTS else []
        return [cost for cost in held if not EQUAL[0] <= round(self.ratios[cost], 3) <= EQUAL[1]]


def schemes(finished: Iterable[Claim], runs: pd.DataFrame) -> list[Scheme]:
    """The points of the answer's figure: arms of finished claims, each in the planned cell of its claim."""
    finished, found = list(finished), []
    for group in words()["figure"]["groups"]:
        reference = group["reference"]
        for arm, label in group["arms"].items():
            claim = next((each for each in finished if {arm, reference} <= set(each.all_arms)), None)
            if not claim:
                continue
            rows = rows_of(claim, PLANNED, claim.cells(PLANNED)[0], runs)
            gain = measure(Endpoint("gain", "top1", "points", contrast={arm: 1, reference: -1}), rows)
            if gain:
                ratios = {cost: _mean({arm: 1}, rows, c) / _mean({reference: 1}, rows, c) for cost, c in COSTS.items()}
                found.append(Scheme(label, group["pattern"], group["rate"], group["holds"], ratios, gain))
    # Dense networks stand beside schemes for scale; alone they answer nothing.
    return found if any(each.holds != "nothing" for each in found) else []


def ratio(endpoint: Endpoint, rows: pd.DataFrame, cost: str) -> tuple[float, float] | None:
    """Cost of a contrast's plus side over its minus side; without sides the range of the arms over their reference.

    Returns:
        Smallest and largest ratio, equal if there is one; None if no arms are compared or not all of them are run.
    """
    column = COSTS[cost]
    if column not in rows or not set(endpoint.arms) <= set(rows.arm):
        return None
    weights = {} if endpoint.slope else endpoint.weights  # a slope has no sides
    plus, minus = ({arm: abs(weight) for arm, weight in weights.items() if weight * sign > 0} for sign in (1, -1))
    if plus and minus:
        both = _mean(plus, rows, column) / _mean(minus, rows, column)
        return both, both
    arms = [*endpoint.of, *(endpoint.over or endpoint.slope or {})]
    if not arms:
        return None
    reference = _mean({endpoint.reference or arms[0]: 1}, rows, column)
    every = [_mean({arm: 1}, rows, column) / reference for arm in arms]
    return min(every), max(every)


def in_words(found: tuple[float, float] | None) -> str:
    """A ratio, or a range of ratios, for a table."""
    if found is None:
        return "–"
    low, high = (f"{each:.2f}" for each in found)
    return low if low == high else f"{low} to {high}"


def _mean(weights: dict[str, float], rows: pd.DataFrame, column: str) -> float:
    """Weighted mean over arms of their means over seeds."""
    means = rows.groupby("arm")[column].mean()
    return sum(weight * means[arm] for arm, weight in weights.items()) / sum(weights.values())


@cache
def described(arm: str) -> str:
    """An arm in words: the first comment of its file."""
    files = [folder / "experiment" / f"{arm}.yaml" for folder in member_folders()]
    lines = next(file for file in files if file.is_file()).read_text().splitlines()
    comments = [line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0].rstrip(".") if comments else arm


def diverged(rows: pd.DataFrame) -> list[str]:
    """The arms with seeds that ended below 50 %, in words."""
    if "top1" not in rows:
        return []
    found = []
    for arm, own in rows.groupby("arm"):
        low = int((own.top1 < DIVERGED).sum())
        if low:
            found.append(f"{described(arm)}: {low} of {len(own)} seeds, mean {own.top1.mean():.1f} %")
    return found


def hours_left(claim: Claim, runs: pd.DataFrame, pilot: pd.DataFrame) -> float | None:
    """Hours of one process for the missing runs of the planned cell, estimated from rows of its arms; None: unknown."""
    planned = claim.cells(PLANNED)
    if not planned:
        return None
    tried = [" ".join(cell) for cell in claim.cells(PILOT)[:1]]
    done = rows_of(claim, PLANNED, planned[0], runs)
    seconds = pd.concat([done, pilot[pilot.overrides.isin(tried)]]).groupby("arm").wall_seconds.median()
    known = seconds.reindex(claim.all_arms).astype(float)
    if known.isna().all():
        return None
    missing = len(claim.seeds(PLANNED)) - done.groupby("arm").seed.nunique().reindex(claim.all_arms).fillna(0)
    return float((known.fillna(known.mean()) * missing).sum() / 3600)
