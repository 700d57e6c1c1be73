"""The article's claims, one file each in conf/claim: endpoints, smallest effect of interest, gates or control."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from midstate.common import checks
from midstate.common.files import read_yaml
from midstate.common.project import CONF
from midstate.study.endpoints import Endpoint, Gate, check_fields
from midstate.study.figure_plan import Drawing, LevelFigure

CLAIMS = CONF / "claim"
EDITIONS = {1: CLAIMS / "first", 2: CLAIMS}  # exploratory, on toy data; confirmatory, preregistered
SCALES = ("quick", "full", "paper")
COMMITTED = Path("results")  # the tables of the study
PLANNED = "full"  # the scale that the second edition's verdicts rest on
PILOT = "pilot"  # the scale that chooses cells and decides gates; never judged
# Fields that explain or show a claim and change no number; not part of its digest.
PROSE = (
    "title", "article", "english", "short", "would_change", "notes", "changes",
    "arms", "leave_out", "figure", "role_swaps", "levels", "keep_losses",
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One claim, as its file has it."""

    claim: str
    title: str
    article: str
    english: str
    endpoint: Endpoint
    secondary: tuple[Endpoint, ...]
    arms: tuple[str, ...]  # run and shown beside those of the endpoints
    leave_out: dict[str, list[str]]  # override: arms that make no sense under it, such as widths made for one network
    scales: dict[str, dict[str, Any]]
    would_change: str
    notes: tuple[str, ...]
    changes: tuple[str, ...]
    digest: str  # of all fields of the file but PROSE
    control: Endpoint | None = None  # of the first edition: a planted effect that must be seen
    gate: tuple[Gate, ...] = ()  # of the second edition: conditions for the question to have an answer
    edition: int = 1
    short: str = ""  # about ten words for README.md; empty: the English sentence
    figure: Drawing | None = None  # None: every endpoint in the unit of the primary one
    role_swaps: dict[str, Any] | None = None  # arms whose layers' order of sensitivity is compared with a reference's
    keep_losses: bool = False  # whether losses.csv.gz keeps its arms' training loss of every step
    levels: tuple[LevelFigure, ...] = ()  # run only if `--arms` names their arms; never judged

    @classmethod
    def read(cls, path: Path) -> "Claim":
        """Read a claim's file.

        Raises:
            ValueError: a field is missing, unknown or invalid.
        """
        try:
            return cls._made(read_yaml(path))
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # also of a file that is no claim
            raise ValueError(f"{path.name}: {error}") from error

    @classmethod
    def _made(cls, content: dict[str, Any]) -> "Claim":
        decides = {key: value for key, value in content.items() if key not in PROSE}
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
        content = {**dict.fromkeys(("secondary", "arms", "notes", "changes"), ()), "leave_out": {}, **content}
        made = {key: Endpoint.read(content[key]) for key in ("endpoint", "control") if key in content}
        made["gate"] = tuple(Gate.read(each) for each in content.get("gate", ()))
        made["secondary"] = tuple(Endpoint.read(each) for each in content["secondary"])
        made |= {key: tuple(content[key]) for key in ("arms", "notes", "changes")}
        made["levels"] = tuple(LevelFigure.read(each) for each in content.get("levels", ()))
        if content.get("figure"):
            made["figure"] = Drawing.read(content["figure"])
        content |= {**made, "digest": digest}
        check_fields(cls, content, "the claim")
        claim = cls(**content)
        claim._check()
        return claim

    def _check(self) -> None:
        """Refuse a claim that could not be judged or drawn."""
        checks.boolean("keep_losses", self.keep_losses)
        if not re.fullmatch(r"C\d+", self.claim):
            raise ValueError(f"claim={self.claim!r}: must be C and a number, such as C16")
        asked = self.endpoint
        if asked.sesoi is None:
            raise ValueError(f"sesoi of {asked.name!r}: must be the smallest effect that matters, in {asked.unit}")
        if asked.expected is None and asked.test != "equivalence":
            raise ValueError(f"expected of {asked.name!r}: must be positive or negative")
        if self.figure and (unknown := self.figure.arms - set(self.all_arms)):
            raise ValueError(f"figure of {self.claim}: {', '.join(sorted(unknown))}: must be of its arms")

    @cached_property
    def all_arms(self) -> list[str]:
        """Every experiment it needs, in order of appearance."""
        return list(dict.fromkeys([arm for endpoint in self.endpoints for arm in endpoint.arms] + list(self.arms)))

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All that is measured, in the order of the report: the primary one first."""
        decided = [gate.endpoint for gate in self.gate if gate.decided == "study"]
        return tuple(each for each in (self.endpoint, self.control, *decided, *self.secondary) if each)

    @property
    def key(self) -> str:
        """Name of its figure and of its anchor in the report."""
        return self.claim.lower() if self.edition > 1 else f"first_{self.claim.lower()}"

    @cached_property
    def level_arms(self) -> dict[str, int]:
        """Further experiments, of the figures in `levels`, each with its number of seeds."""
        return {arm: each.seeds for each in self.levels for arm in each.arms if arm not in self.all_arms}

    @property
    def level_cell(self) -> tuple[str, ...]:
        """Overrides of the runs of `level_arms`: those that a user typed, or none."""
        quick = self.scales.get("quick", {})
        return tuple(quick["cells"][0]) if quick.get("typed") else ()

    def named(self, name: str) -> Endpoint:
        """The endpoint called `endpoint`, `control` or by its own name.

        Raises:
            ValueError: no endpoint has that name.
        """
        known = {"endpoint": self.endpoint} | ({"control": self.control} if self.control else {})
        known |= {each.name: each for each in self.endpoints}
        if name not in known:
            raise ValueError(f"{name!r} in the figure of {self.claim}: must be one of {', '.join(map(repr, known))}")
        return known[name]

    def cells(self, scale: str) -> list[tuple[str, ...]]:
        """The overrides of every cell (data, model, recipe) of a scale; () are the experiments as they are."""
        return [tuple(cell) for cell in self.scales.get(scale, {}).get("cells", [])]

    def arms_in(self, cell: tuple[str, ...], scale: str | None = None) -> list[str]:
        """The arms that are run in a cell; at scale pilot those that its settings list."""
        if scale == PILOT:
            return list(self.scales[PILOT]["arms"])
        left_out = {arm for key, arms in self.leave_out.items() if any(o.startswith(key) for o in cell) for arm in arms}
        return [arm for arm in self.all_arms if arm not in left_out]

    def seeds(self, scale: str, number: int | None = None) -> range:
        """The seeds of a scale from its first seed on: `number` of them; None: the scale's own number."""
        settings = self.scales.get(scale, {})
        first = settings.get("first_seed", 0)
        return range(first, first + (number or settings.get("seeds", 0)))


def read_claims(only: list[str] | None = None, edition: int = 2) -> list[Claim]:
    """Read all claims of an edition, in order of their numbers, or those named.

    Raises:
        ValueError: a name that no claim has.
    """
    files = EDITIONS[edition].glob("c*.yaml")
    claims = sorted((Claim.read(path) for path in files), key=lambda each: int(each.claim[1:]))
    names = [each.claim for each in claims]
    wanted = [name.strip().upper() for name in only] if only else names
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"only={', '.join(unknown)}: must be of {', '.join(names)}")
    return [each for each in claims if each.claim in wanted]


def read_all() -> list[Claim]:
    """The claims of both editions, the confirmatory ones first."""
    return read_claims() + read_claims(edition=1)


def in_words(scale: str, cell: tuple[str, ...]) -> str:
    """A scale and a cell of it, in words."""
    return f"{scale}, {' '.join(cell) or 'the experiments as they are'}"
