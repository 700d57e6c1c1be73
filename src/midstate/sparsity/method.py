"""A method: one member of each axis, and which products of them make no sense."""

from dataclasses import dataclass

from midstate.sparsity.allocation import Allocation
from midstate.sparsity.criteria import Criterion
from midstate.sparsity.estimators import Estimator
from midstate.sparsity.nm_paths import Blocks, Search
from midstate.sparsity.paths import Path
from midstate.sparsity.patterns import Pattern
from midstate.sparsity.penalties import Penalty
from midstate.sparsity.scope import Scope
from midstate.sparsity.updates import Update


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
    update: Update | None = None
    estimator: Estimator | None = None
    penalty: Penalty | None = None

    def __post_init__(self) -> None:
        axes = ("pattern", "criterion", "allocation", "path", "update", "estimator")
        missing = [axis for axis in axes if getattr(self, axis) is None]
        if missing and (len(missing) < len(axes) or self.penalty):
            raise ValueError(f"pruner: {', '.join(missing)} missing; a method has all axes, dense only a scope")
        if missing:
            return
        self.path.check(self.pattern)
        self.path.check_beside(self)
        self.criterion.check(self.pattern, self.allocation.refresh != "never")
        self.allocation.check(self.pattern)
        self.estimator.check(self.pattern)
        self.update.check(self.pattern)
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

    def _check_search(self) -> None:
        if self.allocation.searches != isinstance(self.path, Search):
            raise ValueError(
                "allocation=domino and path=search belong together: the one finds levels, the other puts them in force"
            )
        if self.allocation.searches and self.update.every != "1it":
            raise ValueError(f"every={self.update.every!r}: allocation=domino follows every step; use pruner.every=1it")

    @property
    def dense(self) -> bool:
        """Tell whether nothing is pruned."""
        return self.pattern is None
