"""Values that are learned."""

from dataclasses import dataclass
from typing import ClassVar

from midstate.common import checks


@dataclass(frozen=True)
class Levels:
    """Any values, in order: training finds them, see the estimator `ddq`.

    Args:
        max_bits: 2^max_bits levels a layer.
    """

    max_bits: int = 8
    name: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        checks.integer("max_bits", self.max_bits, 2, 8)
