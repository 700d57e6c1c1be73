"""One claim in the report."""

from collections.abc import Iterable
from dataclasses import dataclass

from midstate.study.analogy import Levels
from midstate.study.beside import Beside
from midstate.study.claims import Claim
from midstate.study.figure_plan import LevelFigure
from midstate.study.figures import Drawn
from midstate.study.verdicts import Result


@dataclass(frozen=True)
class Section:
    """One claim in the report."""

    claim: Claim
    primary: list[Result]  # one a cell
    needed: list[str]  # seeds that would be enough, and their cost; one a cell
    others: list[Result]
    beside: list[Beside]
    figure: Drawn | None
    incomplete: list[str]  # cells of which runs are missing, and how many are done
    changed: list[str]  # digests that rows carry and the committed file no longer has
    mixed: list[str]  # cells whose rows were made by different versions or machines
    levels: list[Levels]  # what layers are left, one a network with rows

    @property
    def levels_not_run(self) -> list[LevelFigure]:
        """The networks of which nobody has seen what layers are left."""
        shown = [each.plan for each in self.levels]
        return [each for each in self.claim.levels if each not in shown]

    @property
    def elsewhere(self) -> str:
        """The verdicts but for the first, in a few words."""
        return elsewhere((each.verdict, each.measured.effect) for each in self.primary[1:])


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
