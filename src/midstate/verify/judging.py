"""Which pattern each layer obeys, and the verdict on the whole file."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from midstate.common.errors import EXIT_FINISHED, EXIT_NOT_OBEYED
from midstate.verify.groups import AXES, most_non_zeros
from midstate.verify.layers import is_weight, stored
from midstate.verify.reading import opened, read

SIZES = (2, 4, 8, 16, 32)  # M of the patterns that are looked for
BY_CHANCE = 1e-3  # a layer with at most this share of zeros is dense: random numbers and half precision make some
OBEYS, DENSE, NEITHER, EMPTY = "obeys", "dense", "neither", "empty"
Pattern = tuple[int, int]  # N and M


@dataclass(frozen=True)
class Layer:
    """A layer's weight as found in the file.

    Args:
        name: name of the tensor, without the parts that wrappers add.
        shape: shape of the weight.
        dtype: dtype of the weight, such as float32.
        zeros: how many of its weights are zero.
        axes: by axis, the tightest pattern that it obeys, or the one that was asked for.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    zeros: int
    axes: dict[str, Pattern]

    @property
    def size(self) -> int:
        """How many weights it has."""
        return prod(self.shape)

    @property
    def density(self) -> float:
        """The share of weights that are not zero."""
        return 1 - self.zeros / self.size

    @property
    def verdict(self) -> str:
        """One of `obeys`, `dense`, `empty` (all zero: it would obey anything) and `neither`."""
        if self.zeros == self.size:
            return EMPTY
        if self.zeros <= BY_CHANCE * self.size:
            return DENSE
        return OBEYS if self.axes else NEITHER

    @property
    def pattern(self) -> Pattern | None:
        """The tightest of its axes' patterns; None where it obeys none."""
        return min(self.axes.values(), key=_looseness) if self.verdict == OBEYS else None

    @property
    def along(self) -> list[str]:
        """The axes along which it obeys that pattern."""
        return [axis for axis in AXES if self.pattern and self.axes.get(axis) == self.pattern]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a file: its layers, and the names of masks in it that are not applied."""

    file: str
    asked: Pattern | None
    layers: list[Layer]
    masks: list[str]

    def named(self, verdict: str) -> list[str]:
        """Names of the layers with a verdict."""
        return [layer.name for layer in self.layers if layer.verdict == verdict]

    def status(self, of_all: bool) -> int:
        """Exit status: 0 if at least one layer obeys and every other is dense (`of_all`: none is dense) or empty."""
        wrong = self.named(NEITHER) + (self.named(DENSE) if of_all else [])
        return EXIT_NOT_OBEYED if wrong or not self.named(OBEYS) else EXIT_FINISHED


def judged(path: Path, asked: Pattern | None = None) -> Verdict:
    """Read a file and judge its layers, one after the other.

    Args:
        path: path of the file.
        asked: N and M; None: find the tightest pattern of each layer.

    Raises:
        NoCheckpoint: the file is no checkpoint.
    """
    layers = []
    with opened(path) as tensors:
        found, masks = stored(tensors)
        for each in found:
            parts = read(tensors, each.parts, each.form)
            if is_weight(parts[0], each.name):
                most, non_zeros = most_non_zeros(parts, (asked[1],) if asked else SIZES)
                shape, dtype = tuple(parts[0].shape), str(parts[0].dtype).removeprefix("torch.")
                layers.append(Layer(each.name, shape, dtype, parts[0].numel() - non_zeros, _obeyed(most, asked)))
    return Verdict(str(path), asked, layers, masks)


def _obeyed(most: dict[str, dict[int, int]], asked: Pattern | None) -> dict[str, Pattern]:
    """The pattern along each axis, from the largest number of non-zeros in groups of each size."""
    obeyed = {}
    for axis, counts in most.items():
        if asked:
            found = [asked] if counts and counts[asked[1]] <= asked[0] else []
        else:
            found = [(count, m) for m, count in counts.items() if count < m]
        if found:
            obeyed[axis] = min(found, key=_looseness)
    return obeyed


def _looseness(pattern: Pattern) -> tuple[float, int]:
    return pattern[0] / pattern[1], pattern[1]
