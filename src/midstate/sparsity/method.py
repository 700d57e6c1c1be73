"""A method: one member of each axis."""

from dataclasses import dataclass

from midstate.sparsity.allocations.base import Allocation
from midstate.sparsity.criteria.base import Criterion
from midstate.sparsity.estimators.base import Estimator
from midstate.sparsity.layers import MEASURED
from midstate.sparsity.members import check_member
from midstate.sparsity.paths.base import Path
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.penalty import Penalty
from midstate.sparsity.refused import REFUSED
from midstate.sparsity.scope import Scope
from midstate.sparsity.updates.drop_grow import DropGrow
from midstate.sparsity.updates.live import Update

AXES = ("pattern", "criterion", "allocation", "path", "update", "estimator")


@dataclass(frozen=True)
class Method:
    """The axes of a pruning method, and a penalty where it has one. A dense run has a scope and nothing else.

    Raises:
        ValueError: an axis is missing, a member lacks a method or has no valid `needs`, or members make no sense
            together (`REFUSED`).
    """

    scope: Scope
    pattern: Pattern | None = None
    criterion: Criterion | None = None
    allocation: Allocation | None = None
    path: Path | None = None
    update: Update | DropGrow | None = None
    estimator: Estimator | None = None
    penalty: Penalty | None = None

    def __post_init__(self) -> None:
        missing = [axis for axis in AXES if getattr(self, axis) is None]
        if missing and (len(missing) < len(AXES) or self.penalty):
            raise ValueError(f"pruner: {', '.join(missing)} missing; a method has all axes, dense only a scope")
        if missing:
            return
        for axis, member in self.members.items():
            check_member(axis, member)
        for refused in REFUSED:
            if refused.when(self):
                raise ValueError(refused.reason(self))

    @property
    def dense(self) -> bool:
        """Tell whether nothing is pruned."""
        return self.pattern is None

    @property
    def members(self) -> dict[str, object]:
        """The members, by axis; empty when dense."""
        return {axis: member for axis in (*AXES, "penalty") if (member := getattr(self, axis)) is not None}

    @property
    def needs(self) -> tuple[str, ...]:
        """Measurements that the members need, names from `NEEDS`."""
        return tuple(dict.fromkeys(need for member in self.members.values() for need in getattr(member, "needs", ())))

    @property
    def misplaced(self) -> str | None:
        """A member whose `patterns` do not name this pattern, and those patterns, in words; None if there is none."""
        for axis, member in self.members.items():
            if (patterns := getattr(member, "patterns", ())) and self.pattern.name not in patterns:
                return f"{axis}={type(member).__name__} is for pattern={' or '.join(patterns)}"
        return None

    @property
    def measures(self) -> bool:
        """Tell whether scores or allocations depend on activations, gradients or losses."""
        return any(need in MEASURED for need in self.needs)

    @property
    def prunes_filters(self) -> bool:
        """Tell whether whole filters go."""
        return not self.dense and self.pattern.unit == "filter"

    @property
    def permutes(self) -> bool:
        """Tell whether channels are reordered before the first mask."""
        return getattr(self.pattern, "permute", False)

    @property
    def num_jumps(self) -> int:
        """Jumps between the dense network and the target, as the path counts them."""
        return 0 if self.dense else self.path.num_jumps(self.pattern)

    @property
    def nominal_density(self) -> float | None:
        """Density of every layer before rounding to whole units; None if there is no such single number."""
        return None if self.dense or not self.allocation.uniform else self.pattern.nominal_density

    def describe(self, density: float, progress: float) -> str:
        """The state at a progress in a few words; `density` is the share of weights that the target keeps."""
        if self.dense:
            return "dense"
        target = self.pattern.title if self.allocation.uniform else f"mixed {self.pattern.title}"
        if self.allocation.own_budget or self.allocation.searches:
            target = f"{100 * density:.3g} % of weights"
        return self.path.describe(self.pattern, target, progress)
