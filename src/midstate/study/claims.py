"""The article's claims: what is compared, which effect counts, what must show up besides; a file each in conf/claim."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from midstate.common import checks
from midstate.common.project import CONF
from midstate.study.figure_plan import Drawing, LevelFigure

CLAIMS = CONF / "claim"
SCALES = ("quick", "full", "paper")
TESTS = ("difference", "equivalence", "share_within", "shapes", "recovery", "concavity")
# Fields that explain or show a claim and change no number; not part of its digest.
PROSE = (
    "title", "article", "english", "short", "would_change", "notes", "changes",
    "arms", "leave_out", "figure", "role_swaps", "levels", "keep_losses",
)  # fmt: skip


@dataclass(frozen=True)
class Endpoint:
    """One number a seed, and what is asked of it.

    A contrast is the sum over arms of weight times `value`, over `divide_by`; with `slope` the weights are those
    of a least-squares slope of (reference - arm) over the given rates.
    """

    name: str
    value: str  # column of runs.csv
    unit: str
    test: str = "difference"
    contrast: dict[str, float] | None = None
    divide_by: float = 1
    slope: dict[str, float] | None = None
    reference: str | None = None
    pairs: dict[str, str] | None = None  # arm: the arm it is compared with, for share_within
    over: dict[str, float] | None = None  # arm: pruning rate, for the tests of curves
    scaled_by: dict[str, Any] | None = None  # of equivalence: bounds the margin by a share of another contrast
    expected: str | None = None  # positive or negative; None: shown without a verdict
    sesoi: float | None = None  # smallest effect of interest, in `unit`

    def __post_init__(self) -> None:
        if self.test not in TESTS:
            raise ValueError(f"test={self.test!r} of {self.name!r}: must be one of {', '.join(TESTS)}")
        if self.expected not in (None, "positive", "negative"):
            raise ValueError(f"expected={self.expected!r} of {self.name!r}: must be positive, negative or null")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every arm in the contrast; empty for tests of curves."""
        if self.slope:
            mean = sum(self.slope.values()) / len(self.slope)
            spread = sum((rate - mean) ** 2 for rate in self.slope.values())
            # The reference cancels: the weights of a slope sum to zero.
            return {arm: -(rate - mean) / spread for arm, rate in self.slope.items()}
        return {arm: weight / self.divide_by for arm, weight in (self.contrast or {}).items()}

    @property
    def arms(self) -> list[str]:
        """Every arm it needs."""
        scale = self.scaled_by["contrast"] if self.scaled_by else {}
        reference = [self.reference] if self.reference else []
        pairs = [arm for pair in (self.pairs or {}).items() for arm in pair]
        return list(dict.fromkeys([*self.weights, *(self.over or {}), *pairs, *reference, *scale]))


@dataclass(frozen=True)
class Claim:
    """One claim, as its file has it."""

    claim: str
    title: str
    article: str
    english: str
    endpoint: Endpoint
    control: Endpoint
    secondary: tuple[Endpoint, ...]
    arms: tuple[str, ...]  # run and shown beside those of the endpoints
    leave_out: dict[str, list[str]]  # override: arms that make no sense under it, such as widths made for one network
    scales: dict[str, dict[str, Any]]
    would_change: str
    notes: tuple[str, ...]
    changes: tuple[str, ...]
    digest: str  # of all that decides its numbers
    short: str = ""  # about ten words for README.md; empty: the English sentence
    figure: Drawing | None = None  # None: every endpoint in the unit of the primary one
    role_swaps: dict[str, Any] | None = None  # arms whose layers' order of sensitivity is compared with a reference's
    keep_losses: bool = False  # of its arms, the training loss of every step, in losses.csv.gz
    levels: tuple[LevelFigure, ...] = ()  # run where `--arms` names their arms, and judged nowhere

    @classmethod
    def read(cls, path: Path) -> "Claim":
        """Read a claim's file."""
        content = yaml.safe_load(path.read_text())
        decides = {key: value for key, value in content.items() if key not in PROSE}
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
        for key in ("endpoint", "control"):
            content[key] = Endpoint(**content[key])
        content["secondary"] = tuple(Endpoint(**each) for each in content["secondary"])
        for key in ("arms", "notes", "changes"):
            content[key] = tuple(content[key])
        if content.get("figure"):
            content["figure"] = Drawing.read(content["figure"])
        content["levels"] = tuple(LevelFigure.read(each) for each in content.get("levels", ()))
        claim = cls(**{"leave_out": {}, **content}, digest=digest)
        checks.boolean("keep_losses", claim.keep_losses)
        if claim.figure and (unknown := claim.figure.arms - set(claim.all_arms)):
            raise ValueError(f"figure of {claim.claim}: {', '.join(sorted(unknown))}: must be of its arms")
        return claim

    @cached_property
    def all_arms(self) -> list[str]:
        """Every experiment it needs, in order of appearance."""
        endpoints = (self.endpoint, self.control, *self.secondary)
        return list(dict.fromkeys([arm for endpoint in endpoints for arm in endpoint.arms] + list(self.arms)))

    @cached_property
    def level_arms(self) -> dict[str, int]:
        """Further experiments that show what layers are left, each with its number of seeds."""
        return {arm: each.seeds for each in self.levels for arm in each.arms if arm not in self.all_arms}

    def named(self, name: str) -> Endpoint:
        """The endpoint called `endpoint`, `control` or by its own name.

        Raises:
            ValueError: there is none.
        """
        known = {"endpoint": self.endpoint, "control": self.control}
        known |= {each.name: each for each in (self.endpoint, self.control, *self.secondary)}
        if name not in known:
            raise ValueError(f"{name!r} in the figure of {self.claim}: must be one of {', '.join(map(repr, known))}")
        return known[name]

    def cells(self, scale: str) -> list[tuple[str, ...]]:
        """The overrides of every cell (data, model, recipe) of a scale; () are the experiments as they are."""
        return [tuple(cell) for cell in self.scales.get(scale, {}).get("cells", [])]

    def arms_in(self, cell: tuple[str, ...]) -> list[str]:
        """The arms that are run in a cell."""
        left_out = {arm for key, arms in self.leave_out.items() if any(o.startswith(key) for o in cell) for arm in arms}
        return [arm for arm in self.all_arms if arm not in left_out]

    def num_seeds(self, scale: str) -> int:
        """How many seeds a scale begins with."""
        return self.scales.get(scale, {}).get("seeds", 0)


def read_claims(only: list[str] | None = None, directory: Path = CLAIMS) -> list[Claim]:
    """Read all claims, in order of their numbers, or those named.

    Raises:
        ValueError: a name that no claim has.
    """
    claims = sorted((Claim.read(path) for path in directory.glob("c*.yaml")), key=lambda each: int(each.claim[1:]))
    names = [each.claim for each in claims]
    wanted = [name.strip().upper() for name in only] if only else names
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"only={', '.join(unknown)}: must be of {', '.join(names)}")
    return [each for each in claims if each.claim in wanted]


def in_words(scale: str, cell: tuple[str, ...]) -> str:
    """A cell of a scale, for people."""
    return f"{scale}, {' '.join(cell) or 'the experiments as they are'}"
