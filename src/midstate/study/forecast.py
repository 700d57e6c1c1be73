"""Forecast of a sweep: which runs are done, which have rows in the tables, and how long the others take."""

import csv
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from midstate.study.outline import UNKNOWN, unknown
from midstate.study.planning import PlannedRun, with_parents

START_SECONDS = 2  # a run's time before its first step and after its last, on 2 cores


@dataclass(frozen=True)
class Rows:
    """The rows of a table of runs, indexed by arm, identity and seed; an unknown identity is found by its cell."""

    found: set[tuple[str, str, int]]
    seconds: dict[tuple[str, str], float]  # median of an arm and identity

    @classmethod
    def read(cls, *folders: Path, table: str = "runs.csv") -> "Rows":
        """Read the runs of one folder of results or several."""
        found, seconds = set(), defaultdict(list)
        for path in dict.fromkeys(folder / table for folder in folders):
            with path.open(newline="") if path.is_file() else nullcontext(()) as file:
                for row in csv.DictReader(file):
                    for identity in (row["config_hash"], unknown(row["overrides"].split())):
                        found.add((row["arm"], identity, int(row["seed"])))
                        seconds[row["arm"], identity].append(float(row["wall_seconds"]))
        return cls(found, {run: median(each) for run, each in seconds.items()})

    def has(self, run: PlannedRun) -> bool:
        """Tell whether a run has its row."""
        return (run.experiment, run.config_hash, run.seed) in self.found

    def seconds_of(self, run: PlannedRun) -> float | None:
        """Median seconds of runs of the same arm and identity; None where there is no row."""
        return self.seconds.get((run.experiment, run.config_hash))


def to_do(planned: list[PlannedRun], rows: Rows | None) -> list[PlannedRun]:
    """The runs still to be made, with the runs that they begin from; with `rows`, a run with a row counts as done."""
    return with_parents(run for run in planned if not (rows and rows.has(run)))


def amount(todo: list[PlannedRun], rows: Rows, jobs: int) -> str:
    """The number of runs, and how long they take as far as rows tell, in words."""
    seconds = [rows.seconds_of(run) for run in todo]
    told = [START_SECONDS + each for each in seconds if each is not None]
    text = f"{len(todo)} to do"
    if told:
        text += f", about {sum(told) / jobs / 60:.0f} minutes with {jobs} at a time"
    unknown = len(seconds) - len(told)
    return text + (f"; no record tells how long {unknown} of them take" if unknown else "")


def missing_in_words(planned: list[PlannedRun], counted: Rows, known: Rows, jobs: int, where: Path) -> str:
    """What `--missing` would change; `where`: the table with the rows that count."""
    plain, left = to_do(planned, None), to_do(planned, counted)
    text = f"with --missing: {len(plain) - len(left)} of these count as done, having a row in {where}; "
    text += amount(left, known, jobs)
    if any(run.config_hash.startswith(UNKNOWN) and counted.has(run) for run in planned):
        text += " (rows of the same arm, cell and seed; the sweep itself compares all settings)"
    return text
