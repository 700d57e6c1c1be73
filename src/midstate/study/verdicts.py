"""From measured endpoints to verdicts, by the rules in docs/claims.md and docs/preregistration.md."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import nan
from typing import Any

import pandas as pd

from midstate.study.claims import PILOT, PLANNED, SCALES, Claim
from midstate.study.endpoints import Endpoint, Gate
from midstate.study.measuring import Measured, margin, mean_of, measure

SUPPORTED, REFUTED, NO_POWER, INCONCLUSIVE, NOT_RUN = "supported", "refuted", "no power", "inconclusive", "not run"
TOO_SMALL = "too small to matter"  # of the second edition; the first calls it refuted
# Test `shapes`: supported if the exponential is better by the SESOI, in the first edition also by 2 AICc in this share
# of the seeds; refuted if it is worse by 10.
SEED_SHARE, REFUTING_AICC = 0.8, 10.0
COLUMNS = (
    "claim", "edition", "endpoint", "data", "model", "scale", "effect", "low", "high", "seeds", "sesoi", "mde",
    "control", "verdict", "git",
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """The outcome of one gate."""

    gate: Gate
    value: float  # NaN: not run
    seeds: int
    planned: int = 1  # seeds that it needs

    @property
    def state(self) -> str:
        """Met, not met, or not run."""
        return NOT_RUN if self.seeds < self.planned else "met" if self.gate.met(self.value) else "not met"


@dataclass(frozen=True)
class Result:
    """One endpoint of one claim in one cell; a row of claims.csv and more."""

    claim: str
    edition: int
    endpoint: str
    data: str
    model: str
    scale: str
    measured: Measured
    sesoi: float
    control: (
        str  # of the control or of all gates: shown or met, not shown or not met, not run; empty for secondary ones
    )
    verdict: str  # empty for secondary endpoints
    git: str
    unit: str
    overrides: str
    gates: tuple[Judged, ...] = ()

    @property
    def by_pilot(self) -> bool:
        """Tell whether the pilot decided it, without results of runs."""
        return not self.measured.seeds

    @property
    def row(self) -> dict[str, Any]:
        """The columns of claims.csv."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        every |= {name: getattr(self.measured, name) for name in ("effect", "low", "high", "seeds", "mde")}
        return {name: every[name] for name in COLUMNS}


def judge(claims: Iterable[Claim], runs: pd.DataFrame, pilot: pd.DataFrame | None = None) -> list[Result]:
    """Judge every claim in every cell of which there are runs: the primary endpoint first, then the others.

    In the second edition an endpoint has a result only when all seeds that were set down are there. A claim with a gate
    that the pilot does not meet gets `no power` without runs.

    Args:
        claims: of any edition.
        runs: rows of runs.csv.
        pilot: rows of pilot.csv, which decide gates; None: there are none.
    """
    pilot = runs.iloc[:0] if pilot is None else pilot
    results = []
    for claim in claims:
        for scale in SCALES:
            for cell in claim.cells(scale):
                rows = rows_of(claim, scale, cell, runs)
                if closed := _closed(claim, scale, cell, rows, pilot):
                    results.append(closed)
                elif not rows.empty:
                    judged = _judge_cell(claim, scale, " ".join(cell), rows, pilot)
                    results += [each for each in judged if _has_all_seeds(claim, each)]
    return results


def _has_all_seeds(claim: Claim, result: Result) -> bool:
    """Tell whether a result has all the seeds that were set down; the first edition set down none."""
    return claim.edition == 1 or result.measured.seeds >= len(claim.seeds(result.scale))


def _closed(claim: Claim, scale: str, cell: tuple[str, ...], rows: pd.DataFrame, pilot: pd.DataFrame) -> Result | None:
    """The result `no power` of a claim whose gate the pilot does not meet, while runs are missing; else None."""
    if scale != PLANNED or len(rows) >= len(claim.seeds(scale)) * len(claim.arms_in(cell)):
        return None
    gates = gates_of(claim, pilot.iloc[:0], pilot)
    if not any(each.gate.decided == PILOT and each.state == "not met" for each in gates):
        return None
    asked, nothing = claim.endpoint, Measured(nan, nan, nan, 0, nan)
    what, state = (claim.claim, claim.edition, asked.name, "", "", scale), ("not met", NO_POWER)
    return Result(*what, nothing, asked.sesoi, *state, "", asked.unit, " ".join(cell), gates)


def rows_of(claim: Claim, scale: str, cell: tuple[str, ...], runs: pd.DataFrame) -> pd.DataFrame:
    """The rows that a claim compares in one cell; in the second edition only of the seeds that were set down."""
    rows = runs[(runs.overrides == " ".join(cell)) & runs.arm.isin(claim.arms_in(cell))]
    return rows if claim.edition == 1 else rows[rows.seed.isin(claim.seeds(scale))]


def gates_of(claim: Claim, rows: pd.DataFrame, pilot: pd.DataFrame) -> tuple[Judged, ...]:
    """The outcomes of a claim's gates: the mean over seeds decides; of the pilot only the first cell counts."""
    planned = claim.seeds(PILOT)
    if cells := claim.cells(PILOT):  # further cells decide nothing
        pilot = pilot[(pilot.overrides == " ".join(cells[0])) & pilot.seed.isin(planned)]
    found = []
    for gate in claim.gate:
        by_pilot = gate.decided == PILOT
        value, seeds = mean_of(gate.endpoint, pilot if by_pilot else rows)
        found.append(Judged(gate, value, seeds, len(planned) if by_pilot and cells else 1))
    return tuple(found)


def _state(claim: Claim, rows: pd.DataFrame, gates: tuple[Judged, ...]) -> str:
    """Whether the control was shown, or all gates are met."""
    if claim.control:
        measured = measure(claim.control, rows)
        return NOT_RUN if measured is None else "shown" if _shown(claim.control, measured) else "not shown"
    states = [each.state for each in gates]
    return next((state for state in ("not met", NOT_RUN) if state in states), "met")


def _judge_cell(claim: Claim, scale: str, overrides: str, rows: pd.DataFrame, pilot: pd.DataFrame) -> list[Result]:
    gates = gates_of(claim, rows, pilot)
    state = _state(claim, rows, gates)
    results = []
    for endpoint in claim.endpoints:
        measured = measure(endpoint, rows)
        if measured is None:
            continue
        used = rows[rows.arm.isin(endpoint.arms)]
        primary = endpoint is claim.endpoint
        sesoi = margin(endpoint, rows) if endpoint.scaled_by else endpoint.sesoi
        results.append(
            Result(
                claim=claim.claim,
                edition=claim.edition,
                endpoint=" ".join(filter(None, (endpoint.name, _variant(overrides)))),
                data="+".join(sorted(used.data.unique())),
                model="+".join(sorted(used.model.unique())),
                scale=scale,
                measured=measured,
                sesoi=nan if sesoi is None else sesoi,
                control=state if primary else "",
                verdict=verdict(endpoint, measured, sesoi, state, claim.edition) if primary else "",
                git=" ".join(sorted(used.git.dropna().unique())),
                unit=endpoint.unit,
                overrides=overrides,
                gates=gates if primary else (),
            )
        )
    return results


def _variant(overrides: str) -> str:
    """Overrides of a cell that are not data, network or length; named beside the endpoint."""
    plain = ("data", "model", "trainer.epochs", "trainer.batch_size")
    variant = [each for each in overrides.split() if not each.startswith(plain)]
    return f"[{' '.join(variant)}]" if variant else ""


def verdict(endpoint: Endpoint, measured: Measured, sesoi: float, state: str, edition: int = 1) -> str:
    """Say what a primary endpoint means for its claim.

    Args:
        endpoint: the primary one.
        measured: effect, interval and seeds of the endpoint.
        sesoi: smallest effect of interest, or the margin of an equivalence test.
        state: of the control (shown, not shown) or of the gates (met, not met); or not run.
        edition: whose rules apply.
    """
    if state == NOT_RUN and edition > 1:
        return NOT_RUN
    if state not in ("shown", "met"):
        return NO_POWER
    if endpoint.test == "equivalence":
        return _equivalence_verdict(measured, sesoi)
    if endpoint.test == "shapes":
        return _shapes_verdict(measured, sesoi, edition)
    sign = 1 if endpoint.expected == "positive" else -1
    low, high = sorted((sign * measured.low, sign * measured.high))
    effect = sign * measured.effect
    if low > 0 and effect >= sesoi:
        return SUPPORTED
    small = -sesoi < low and high < sesoi
    if edition == 1:
        return REFUTED if high < 0 or small else INCONCLUSIVE
    if high < 0 and effect <= -sesoi:
        return REFUTED
    return TOO_SMALL if small else INCONCLUSIVE


def _equivalence_verdict(measured: Measured, bound: float) -> str:
    if not bound > 0:  # the contrast that bounds the margin is too small
        return NO_POWER
    if measured.equivalent:
        return SUPPORTED
    return REFUTED if measured.low > bound or measured.high < -bound else INCONCLUSIVE


def _shapes_verdict(measured: Measured, sesoi: float, edition: int) -> str:
    if measured.effect >= sesoi and (edition > 1 or measured.seed_share >= SEED_SHARE):
        return SUPPORTED
    return REFUTED if measured.effect <= -REFUTING_AICC else INCONCLUSIVE


def _shown(control: Endpoint, measured: Measured) -> bool:
    """Tell whether a positive control showed its planted effect."""
    if control.test == "recovery":
        return measured.effect >= control.sesoi
    sign = 1 if control.expected == "positive" else -1
    return min(sign * measured.low, sign * measured.high) > 0 and sign * measured.effect >= control.sesoi
