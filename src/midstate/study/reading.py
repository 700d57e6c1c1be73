"""What notebooks show of a claim: the same cell, verdict and figure as the report."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from midstate.study import costs, figures, verdicts
from midstate.study.answer import words
from midstate.study.beside import interval
from midstate.study.claims import Claim, in_words, read_claims
from midstate.study.drawing import Tables
from midstate.study.section import command, deciding, meaning
from midstate.study.tables import read_pilot
from midstate.study.verdicts import Result, rows_of


@dataclass(frozen=True)
class Reading:
    """One claim in the edition that runs decide, the second first; else in the second, not run or without power."""

    claim: Claim
    result: Result | None
    tables: Tables  # of the cell that decides

    @classmethod
    def of(cls, name: str, results: Path | None = None) -> "Reading":
        """Read a claim by its name, such as C8.

        Args:
            name: of the claim.
            results: folder of the tables; None: the committed ones.
        """
        results = results or next(each for each in (Path("results"), Path("../results")) if each.is_dir())
        tables, pilot = Tables.read(results), read_pilot(results)
        found = [(each, deciding(each, verdicts.judge([each], tables.runs, pilot))) for each in _editions(name)]
        claim, result = next(((each, result) for each, result in found if result and not result.by_pilot), found[0])
        if not result or result.by_pilot:
            return cls(claim, result, tables.cell("", ()))
        cell = tuple(result.overrides.split())
        seeds = rows_of(claim, result.scale, cell, tables.runs).seed.unique()
        return cls(claim, result, tables.cell(result.overrides, seeds))

    @property
    def asked(self) -> str:
        """The question, in Markdown."""
        edition = "second edition, confirmatory" if self.claim.edition > 1 else "first edition, exploratory"
        return (
            f"**{self.claim.claim}, {edition}.** {self.claim.english.strip()}\n\n> {self.claim.article}\n\n"
            f"Endpoint: {self.claim.endpoint.name}. Again: `{command(self.claim)}`"
        )

    @property
    def data(self) -> pd.DataFrame | None:
        """The arms, in words, with the value that the endpoint compares and their costs: means over seeds.

        No other result is shown: a claim without all its seeds may compare it. None: not run.
        """
        runs = self.tables.runs[self.tables.runs.arm.isin(self.claim.all_arms)]
        if runs.empty:
            return None
        means = runs.groupby("arm")[[self.claim.endpoint.value, *costs.COSTS.values()]].mean().round(2)
        means.insert(0, "seeds", runs.groupby("arm").seed.nunique())
        means = means.reindex([arm for arm in self.claim.all_arms if arm in means.index])
        return means.set_axis([costs.described(arm) for arm in means.index])

    @property
    def figure(self) -> Figure | None:
        """The report's figure; None: not run."""
        return figures.draw(self.claim, self.tables) if self.result and not self.result.by_pilot else None

    @property
    def shown(self) -> str:
        """The verdict, what it means and what would change it, in Markdown."""
        change = f"What it does not show: {self.claim.would_change.strip()}"
        if not self.result:
            return "Not run."
        if self.result.by_pilot:
            return f"**{self.result.verdict}**: {meaning(self.claim, self.result)}"
        found, unit = self.result, self.claim.endpoint.unit
        cell = in_words(found.scale, tuple(found.overrides.split()))
        numbers = f"{interval(found.measured)} {unit}, {found.measured.seeds} seeds ({cell})."
        if why := words()["withdrawn"].get(self.claim.key):
            return f"**withdrawn** (then: {found.verdict}): {numbers} {why.strip()}"
        means = meaning(self.claim, found) if self.claim.edition > 1 else "Exploratory: it raises the question."
        return f"**{found.verdict}**: {numbers} {means} {change}"


def _editions(name: str) -> list[Claim]:
    """The claims of a name, the newer edition first."""
    asked = read_claims([name])  # the second edition has all names
    return [*asked, *(each for each in read_claims(edition=1) if each.claim == asked[0].claim)]
