"""Endpoints and gates of claims: what is measured, what is expected, and which conditions must hold."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

# The fields that each test needs.
TESTS = {
    "difference": ("contrast or slope",),
    "equivalence": ("contrast or slope", "sesoi"),
    "share_within": ("pairs", "sesoi"),
    "shapes": ("over",),
    "recovery": ("over",),
    "concavity": ("over",),
    "slope": ("of", "against"),
    "recovered_share": ("over", "reference"),
    "half_damage": ("over", "reference"),
    "span": ("of",),
}
COMPARED = ("contrast", "slope", "pairs", "over", "of", "against")  # only for the tests that need them
DECIDED_IN = ("pilot", "study")


def check_fields(kind: type, content: Mapping[str, Any], where: str) -> None:
    """Check that a mapping has the fields that a dataclass needs, and no others.

    Raises:
        ValueError: a field is unknown or missing.
    """
    known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(kind)}
    if unknown := [name for name in content if name not in known]:
        raise ValueError(f"{', '.join(unknown)} of {where}: not known; must be of {', '.join(known)}")
    if missing := [name for name, needed in known.items() if needed and name not in content]:
        raise ValueError(f"{', '.join(missing)} of {where}: missing")


@dataclass(frozen=True)
class Endpoint:
    """What is measured of runs, by which test, and the expected result.

    A contrast is the sum over arms of weight times `value`, divided by `divide_by`. The field `slope` sets the weights
    to those of a least-squares slope of (reference - arm) over the given rates.

    Tests of several arms: the test `slope` is the slope of `value` over log2 of a measured column within a seed (`of`,
    `against`, `reference` or `offset`); `recovered_share` is the slope over pruning rates (`over`) of the share of the
    damage that finetuning recovers; `half_damage` counts the rates with damage, 0 unless the shares recovered lie on
    both sides of a half; `span` is the ratio of the largest to the smallest mean.
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
    of: tuple[str, ...] = ()  # arms, for slope and span
    against: str | None = None  # column whose log2 is the slope's x, over the reference's or plus `offset`
    offset: float = 0.0
    floor: float | None = None  # lower bound of the fitted shapes, such as chance

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Endpoint":
        """Make an endpoint from its mapping in a claim's file.

        Raises:
            ValueError: a field is unknown, missing or invalid.
        """
        check_fields(cls, content, f"endpoint {content.get('name')!r}")
        return cls(**content)

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", tuple(self.of))
        if self.test not in TESTS:
            raise ValueError(f"test={self.test!r} of {self.name!r}: must be one of {', '.join(TESTS)}")
        if self.expected not in (None, "positive", "negative"):
            raise ValueError(f"expected={self.expected!r} of {self.name!r}: must be positive, negative or null")
        needed, given = TESTS[self.test], {name for name, value in vars(self).items() if value not in (None, (), {})}
        if missing := [each for each in needed if not given & set(each.split(" or "))]:
            raise ValueError(f"{', '.join(missing)} of {self.name!r}: missing; test={self.test} needs it")
        if unused := [name for name in COMPARED if name in given and name not in " or ".join(needed).split(" or ")]:
            raise ValueError(f"{', '.join(unused)} of {self.name!r}: must be left out with test={self.test}")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every arm in the contrast; empty for tests without a contrast."""
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
        return list(dict.fromkeys([*self.weights, *(self.over or {}), *self.of, *pairs, *reference, *scale]))


@dataclass(frozen=True)
class Gate:
    """What must be true for a question to have an answer; the mean over seeds decides.

    Args:
        endpoint: what is measured.
        at_least: smallest value at which the gate is met; None: no lower bound.
        at_most: largest value at which the gate is met; None: no upper bound.
        decided: which rows decide, those of the `pilot` or of the `study`.
    """

    endpoint: Endpoint
    at_least: float | None
    at_most: float | None
    decided: str

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Gate":
        """Read a gate as a claim's file has it.

        Raises:
            ValueError: no bound, an unknown `decided`, or an invalid endpoint.
        """
        asked = dict(content)
        bounds = [asked.pop(name, None) for name in ("at_least", "at_most")]
        decided = asked.pop("decided", "pilot")
        if bounds == [None, None]:
            raise ValueError(f"gate {asked.get('name')!r}: must have at_least or at_most")
        if decided not in DECIDED_IN:
            raise ValueError(f"decided={decided!r} of {asked.get('name')!r}: must be one of {', '.join(DECIDED_IN)}")
        return cls(Endpoint.read(asked), *bounds, decided)

    def met(self, value: float) -> bool:
        """Tell whether a measured value lies within the bounds; NaN does not."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def bound(self) -> str:
        """The bounds in words."""
        sides = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{words} {value:g}" for words, value in sides if value is not None)
