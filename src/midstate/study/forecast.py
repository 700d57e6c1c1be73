"""What a sweep would do: which runs are done, which have rows in the tables, and how long the others take."""

import csv
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from midstate.study.outline import UNKNOWN, unknown
from midstate.study.planning import PlannedRun, with_parents

START_SECONDS = 2  # of a run before its first step and after its last, on 2 cores


@dataclass(frozen=True)
class Rows:
    """The rows of runs.csv, to be asked about thousands of runs; where an identity is unknown, by arm and cell."""

    found: set[tuple[str, str, int]]
    seconds: dict[tuple[str, str], float]  # the median of such runs

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
        """Seconds that such runs took; None where there is none."""
        return self.seconds.get((run.experiment, run.config_hash))


def to_do(planned: list[PlannedRun], rows: Rows | None) -> list[PlannedRun]:
    """The runs still to be made, those that they begin from among them; with `rows`, what has one counts as done."""
    return with_parents(run for run in planned if not (rows and rows.has(run)))


def amount(todo: list[PlannedRun], rows: Rows, jobs: int) -> str:
    """How many runs these are and how long they take, as far as records tell."""
    seconds = [rows.seconds_of(run) for run in todo]
    told = [START_SECONDS + each for each in seconds if each is not None]
    text = f"{len(todo)} to do"
    if told:
        text += f", about {sum(told) / jobs / 60:.0f} minutes with {jobs} at a time"
    unknown = len(seconds) - len(told)
    return text + (f"; no record tells how long {unknown} of them take" if unknown else "")


def missing_in_words(planned: list[PlannedRun], counted: Rows, known: Rows, jobs: int, where: Path) -> str:
    """What `--missing` would change."""
    plain, left = to_do(planned, None), to_do(planned, counted)
    text = f"with --missing: {len(plain) - len(left)} of these count as done, having a row in {where / 'runs.csv'}; "
    text += amount(left, known, jobs)
    if any(run.config_hash.startswith(UNKNOWN) and counted.has(run) for run in planned):
        text += " (rows of the same arm, cell and seed; the sweep itself compares all settings)"
    return text
