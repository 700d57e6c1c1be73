"""A method: one member of each axis, and which products of them make no sense."""

from dataclasses import dataclass

from midstate.sparsity.allocations.base import Allocation
from midstate.sparsity.criteria.base import Criterion
from midstate.sparsity.estimators.base import Estimator
from midstate.sparsity.layers import MEASURED, NEEDS
from midstate.sparsity.paths.base import Path
from midstate.sparsity.paths.blocks import Blocks
from midstate.sparsity.paths.combinations import Combinations
from midstate.sparsity.paths.frames import Frames
from midstate.sparsity.paths.search import Search
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.penalty import Penalty
from midstate.sparsity.scope import Scope
from midstate.sparsity.updates.drop_grow import DropGrow
from midstate.sparsity.updates.live import Update

AXES = ("pattern", "criterion", "allocation", "path", "update", "estimator")
# Methods that a member must have; whatever else its axis asks for has a default.
METHODS = {
    "criterion": ("score(layer, pattern)",),
    "allocation": ("allocate(pattern, layers)",),
    "path": ("masks(pattern, layers, p)", "describe(pattern, level, p)"),
    "estimator": ("apply(weight, mask, memory)",),
    "penalty": ("add(layers, step, progress)",),
}


def _check_member(axis: str, member: object) -> None:
    """Raise ValueError if a member lacks a method, or needs what there is not."""
    name = type(member).__name__
    lacking = [each for each in METHODS.get(axis, ()) if not callable(getattr(member, each.partition("(")[0], None))]
    if lacking:
        raise ValueError(f"{axis}={name}: has no method {' and no '.join(lacking)}; every {axis} needs it")
    needs = getattr(member, "needs", ())
    if not isinstance(needs, tuple) or (unknown := [need for need in needs if need not in NEEDS]):
        wrong = needs if not isinstance(needs, tuple) else unknown
        raise ValueError(f"{axis}={name}: needs={wrong!r}: must be a tuple of names among {', '.join(NEEDS)}")


@dataclass(frozen=True)
class Method:
    """The axes of a pruning method, and a penalty where it has one. A dense run has a scope and nothing else.

    Raises:
        ValueError: an axis is missing, or two make no sense together; the message says why.
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
            _check_member(axis, member)
        self.path.check(self.pattern)
        self._check_path()
        self.criterion.check(self.pattern, self.allocation.refresh != "never")
        self.allocation.check(self.pattern)
        self.estimator.check(self.pattern)
        self.update.check(self.pattern)
        if isinstance(self.update, DropGrow):
            self._check_exchange()
        if self.penalty:
            self.penalty.check(self.pattern)
        if self.allocation.by_filter and not (self.estimator.by_filter and self.path.by_filter):
            other = self.path.one_level if self.estimator.by_filter else "estimators of MaxQ"
            raise ValueError(
                f"per=filter gives filters of one layer different N's, and {other} needs one; use per=layer"
            )
        self._check_search()
        if self.update.regrow == "never" and isinstance(self.path, Blocks) and self.path.rerank == "live":
            raise ValueError("regrow=never: rerank=live lets blocks turn dense again; use pruner.rerank=sticky")
        if self.pattern.name == "filter" and not self.scope.skip_classifier:
            raise ValueError(
                "pattern=filter with skip_classifier=false: a class without its filter is never answered; "
                "use pruner/scope=filters"
            )

    def _check_path(self) -> None:
        """Raise ValueError where the path makes no sense beside other axes."""
        path, update, estimator = self.path, self.update, self.estimator
        if isinstance(path, Combinations):
            self._check_combinations()
        elif estimator.learns_combinations:
            beside = "" if self.pattern.name == "nm" else " beside pruner/pattern=nm"
            raise ValueError(
                f"estimator=candidates learns which combinations stay; use pruner/path=combinations{beside}"
            )
        if isinstance(path, Frames) and update.regrow == "never" and path.frames != "sparsify":
            raise ValueError(f"regrow=never: frames={path.frames} brings weights back; use pruner.frames=sparsify")
        if not path.fades:
            return
        if estimator.trains_dense:
            raise ValueError("path=fade: training under estimator=soft never sees what fades; use pruner/estimator=ste")
        if estimator.continuous:
            raise ValueError(
                "path=fade: estimator=s_ste shrinks weights by the largest pruned one, and nothing is pruned before "
                "the end; use pruner/path=n, or pruner/estimator=ste"
            )
        if update.forced_swaps:
            raise ValueError(
                f"forced_swaps={update.forced_swaps}: exchanges pruned units, and path=fade prunes none before "
                "the end; use another path"
            )

    def _check_combinations(self) -> None:
        """Whole groups only; learnt combinations need their number beforehand, and follow no score."""
        if self.scope.indivisible == "pad":
            raise ValueError(
                "indivisible='pad': path=combinations needs whole groups, and partial ones are others; use skip"
            )
        if self.update.from_zero:
            raise ValueError(
                "update=drop_grow ranks weights, one by one, and path=combinations the sums of several; "
                "use pruner/path=direct, or pruner/update=live"
            )
        if not self.estimator.learns_combinations:
            return
        if self.allocation.refresh != "never":
            raise ValueError(
                "estimator=candidates has one parameter a combination from the first step on, and this allocation "
                "decides later how many stay; use uniform, erk, or scheme with the scheme.json of a run"
            )
        if self.update.regrow == "never" or self.update.hysteresis:
            raise ValueError(
                f"regrow={self.update.regrow}, hysteresis={self.update.hysteresis:g}: these bear on scores, and "
                "estimator=candidates ranks combinations by what it has learnt; use regrow=free and hysteresis=0"
            )

    def _check_search(self) -> None:
        if self.allocation.searches != isinstance(self.path, Search):
            raise ValueError(
                "allocation=domino and path=search belong together: the one finds levels, the other puts them in force"
            )
        if self.allocation.searches and self.update.every != "1it":
            raise ValueError(f"every={self.update.every!r}: allocation=domino follows every step; use pruner.every=1it")

    def _check_exchange(self) -> None:
        """Raise ValueError where units cannot be dropped and grown as `DropGrow` says."""
        update, estimator = self.update, self.estimator
        if self.allocation.refresh == "tick":
            raise ValueError(
                "update=drop_grow leaves each layer as many weights as it has, and this allocation counts anew at "
                "every refresh; use pruner.refresh=once, or pruner/update=live"
            )
        if isinstance(self.path, Blocks) and self.path.rerank == "live":
            raise ValueError(
                "update=drop_grow: rerank=live lets blocks turn dense again, with weights that are zero; "
                "use pruner.rerank=sticky"
            )
        if self.path.fades:
            raise ValueError("update=drop_grow: path=fade has all weights in use until its end; use pruner/path=direct")
        if update.grow == "gradient" and not estimator.sees_pruned:
            raise ValueError(
                "grow='gradient': needs the gradient of pruned weights, which is remembered by "
                "pruner/estimator=dense_gradient alone; use it, or pruner.grow=random"
            )
        if not estimator.rests:
            raise ValueError(
                f"grow={update.grow!r}: grown weights begin at zero, and under this estimator pruned ones train on; "
                "use pruner/estimator=hard or dense_gradient"
            )

    @property
    def dense(self) -> bool:
        """Tell whether nothing is pruned."""
        return self.pattern is None

    @property
    def needs(self) -> tuple[str, ...]:
        """What its members look at that has to be measured or found, from `NEEDS`."""
        return tuple(dict.fromkeys(need for member in self.members.values() for need in getattr(member, "needs", ())))

    @property
    def measures(self) -> bool:
        """Tell whether scores or allocations depend on activations or losses."""
        return any(need in MEASURED for need in self.needs)

    @property
    def members(self) -> dict[str, object]:
        """The members of its axes, by axis; none when dense."""
        return {axis: member for axis in (*AXES, "penalty") if (member := getattr(self, axis)) is not None}

    @property
    def prunes_filters(self) -> bool:
        """Tell whether whole filters go."""
        return not self.dense and self.pattern.name == "filter"

    @property
    def num_jumps(self) -> int:
        """Jumps between the dense network and the target, as the pattern counts them."""
        return 0 if self.dense else self.pattern.num_jumps

    @property
    def nominal_density(self) -> float | None:
        """Density of every layer before rounding to whole units; None where that is not one number."""
        if self.dense or not self.allocation.uniform or self.pattern.name == "nm":
            return None
        return 1 - self.pattern.sparsity

    def describe(self, density: float, progress: float) -> str:
        """The state at a progress in a few words; `density` is the share of weights that the target keeps."""
        if self.dense:
            return "dense"
        target = self.pattern.title if self.allocation.uniform else f"mixed {self.pattern.title}"
        if self.allocation.own_budget or self.allocation.searches:
            target = f"{100 * density:.3g} % of weights"
        return self.path.describe(self.pattern, target, progress)
