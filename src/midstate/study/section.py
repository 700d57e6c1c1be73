"""One claim in the report: what was asked, what came out, and what it means by rule."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import pandas as pd

from midstate.study import costs
from midstate.study.analogy import Levels, levels_of_claim
from midstate.study.answer import headline, words
from midstate.study.beside import Beside, beside, interval
from midstate.study.caveats import incomplete, mixed_origins
from midstate.study.claims import PLANNED, Claim
from midstate.study.drawing import Tables
from midstate.study.figure_plan import LevelFigure
from midstate.study.figures import Drawn
from midstate.study.statistics import seeds_needed
from midstate.study.verdicts import NOT_RUN, Judged, Result, gates_of, rows_of


@dataclass(frozen=True)
class Section:
    """One claim in the report."""

    claim: Claim
    headline: Result | None  # the result that decides the claim; None: not run, or seeds are missing
    primary: list[Result]  # one a cell
    needed: list[str]  # seeds that would be enough, and their cost; one a cell
    others: list[Result]
    beside: list[Beside]
    figure: Drawn | None
    incomplete: list[str]  # cells of which runs are missing, and how many are done
    changed: list[str]  # digests that rows carry and the committed file no longer has
    mixed: list[str]  # cells whose rows were made by different versions or machines
    levels: list[Levels]  # bits or levels of layers, one a network with rows
    gates: tuple[Judged, ...]
    costs: dict[str, str]  # ratios of parameters and of MACs in the headline's contrast
    diverged: list[str]  # arms
    hours: float | None  # of one process, for what is not run

    @property
    def verdict(self) -> str:
        """The headline's verdict."""
        return self.headline.verdict if self.headline else NOT_RUN

    @property
    def closed(self) -> bool:
        """Tell whether the pilot decided it, without results of runs."""
        return self.headline is not None and self.headline.by_pilot

    @property
    def effect(self) -> str:
        """The effect with its interval; else why there is none, or the hours left to run."""
        if self.closed:
            return "not run: a gate is not met in the pilot"
        if self.headline and self.verdict == NOT_RUN:
            return "a gate is not run"
        if self.headline:
            return f"{interval(self.headline.measured)} {self.claim.endpoint.unit}"
        return f"about {self.hours:.1f} h to run" if self.hours else "–"

    @property
    def withdrawn(self) -> str:
        """Why the claim's verdict is withdrawn; empty: it is not."""
        return words()["withdrawn"].get(self.claim.key, "").strip()

    @property
    def meaning(self) -> str:
        """What the verdict means, by rule."""
        return meaning(self.claim, self.headline)

    @property
    def command(self) -> str:
        """The command that runs the claim again."""
        return command(self.claim)

    @property
    def levels_not_run(self) -> list[LevelFigure]:
        """The entries of the claim's `levels` without rows."""
        shown = [each.plan for each in self.levels]
        return [each for each in self.claim.levels if each not in shown]

    @property
    def elsewhere(self) -> str:
        """The verdicts of all cells but the headline's, in a few words."""
        return elsewhere((each.verdict, each.measured.effect) for each in self.primary if each is not self.headline)


def meaning(claim: Claim, result: Result | None) -> str:
    """What the result that decides a claim means, by rule."""
    means, verdict = words()["means"], result.verdict if result else NOT_RUN
    if not result:
        return means.get(f"{verdict}, {claim.endpoint.test}", means[verdict])
    case = "one side" if result.measured.low * result.measured.high > 0 else claim.endpoint.test
    text = means.get(f"{verdict}, {case}") or means.get(f"{verdict}, {claim.endpoint.test}", means[verdict])
    sesoi, mde = (f"{each:.2g} {claim.endpoint.unit}" for each in (result.sesoi, result.measured.mde))
    return text.format(sesoi=sesoi, mde=mde)


def command(claim: Claim) -> str:
    """The command that runs a claim again."""
    option = "--edition first" if claim.edition == 1 else f"--scale {PLANNED}"
    return f"python scripts/reproduce.py {option} --only {claim.claim}"


def section(
    claim: Claim, judged: Iterable[Result], tables: Tables, pilot: pd.DataFrame, figure: Drawn | None, folder: Path
) -> Section:
    """What the report says of one claim; in the second edition without cells whose seeds are incomplete.

    Args:
        claim: to report on.
        judged: results of any claims.
        tables: all rows.
        pilot: rows of pilot.csv.
        figure: drawn from the headline's cell; None: not drawn.
        folder: for the figures of `levels`.
    """
    own = [result for result in judged if is_of(result, claim)]
    rows = tables.runs[tables.runs.arm.isin(claim.all_arms)]
    digests = {
        tag.partition("-")[2]
        for tags in rows.get("claims", pd.Series(dtype=str)).dropna()
        for tag in tags.split()
        if tag.partition("-")[0] == claim.claim
    }
    primary = [result for result in own if result.verdict]
    first = deciding(claim, primary)
    decided = first and not first.by_pilot
    compared = rows_of(claim, first.scale, tuple(first.overrides.split()), tables.runs) if decided else rows.iloc[:0]
    return Section(
        claim,
        first,
        primary,
        [needed(claim, result, rows) for result in primary],
        [result for result in own if not result.verdict],
        beside(claim, tables),
        figure,
        incomplete(claim, tables.runs) if decided or not first else [],
        sorted(digests - {claim.digest}),
        mixed_origins(claim, tables.runs),
        levels_of_claim(claim, tables, folder),
        first.gates if first else gates_of(claim, compared, pilot),
        {cost: costs.in_words(costs.ratio(claim.endpoint, compared, cost)) for cost in costs.COSTS},
        costs.diverged(compared) if claim.edition > 1 else [],
        costs.hours_left(claim, tables.runs, pilot) if claim.edition > 1 and not first else None,
    )


def is_of(result: Result, claim: Claim) -> bool:
    """Tell whether a result is of a claim."""
    return (result.claim, result.edition) == (claim.claim, claim.edition)


def deciding(claim: Claim, results: Iterable[Result]) -> Result | None:
    """The result that decides a claim."""
    return next((each for each in results if each.verdict and headline(claim, [each.row])), None)


def elsewhere(judged: Iterable[tuple[str, float]]) -> str:
    """Verdicts with their effects under other data, networks and recipes, in a few words."""
    judged = list(judged)
    by_verdict = {verdict: [effect for each, effect in judged if each == verdict] for verdict, _ in judged}
    parts = [
        f"{verdict} in {len(effects)} of {len(judged)} ({min(effects):+.2f}"
        + (f" to {max(effects):+.2f})" if len(effects) > 1 else ")")
        for verdict, effects in sorted(by_verdict.items(), key=lambda item: -len(item[1]))
    ]
    return ", ".join(parts) or "not run"


def needed(claim: Claim, result: Result, runs: pd.DataFrame) -> str:
    """How many seeds would bring the minimum detectable effect below the SESOI, and what those missing would cost.

    Args:
        claim: gives the seeds of each scale.
        result: of a primary endpoint.
        runs: rows of runs.csv of the claim's arms; the cost is their mean time a seed for each missing seed, in
            hours of one process.

    Returns:
        Such as "36 (+1.2 h)"; empty where it is below already.
    """
    measured = result.measured
    if not result.sesoi > 0 or isnan(measured.mde) or measured.mde <= result.sesoi:
        return ""
    seeds = seeds_needed(measured.sd, result.sesoi)
    counted = claim.seeds(result.scale, measured.seeds)
    spent = runs.wall_seconds[(runs.overrides == result.overrides) & runs.seed.isin(counted)].sum() / 3600
    return f"{seeds} (+{spent / measured.seeds * (seeds - measured.seeds):.1f} h)"
