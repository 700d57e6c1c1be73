"""Penalties: what is added to gradients before anything is pruned, so that there is less to lose.

`add` runs once before every optimizer step, on real gradients (after unscaling, before clipping, whatever
number of parts the batch was taken in).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midstate.common import checks
from midstate.sparsity.patterns.pattern import Pattern


@dataclass(frozen=True)
class Penalised:
    """One layer as a penalty sees it; a penalty changes gradients and nothing else."""

    weight: Tensor  # (O, C) or (O, C, *K), as the optimizer has it
    mask: Tensor  # of weights, in force now
    uses: int  # multiply-accumulates of one weight on one image
    gamma: Tensor | None = None  # (O,) of the BatchNorm that reads the layer, where observed


@dataclass(frozen=True)
class BatchNormL1:
    """L1 on gammas, until the first unit goes: grad += strength * sign(gamma) (Liu et al., arXiv 1708.06519).

    Args:
        strength: 0 or more.
    """

    strength: float = 1e-4
    observes: ClassVar[str | None] = "batchnorm"  # what it looks at besides weights, as a criterion does

    def __post_init__(self) -> None:
        checks.number("strength", self.strength, 0)

    def check(self, pattern: Pattern) -> None:
        """Filters only: a gamma belongs to one."""
        if pattern.name != "filter":
            raise ValueError(
                f"penalty=batchnorm_l1 draws whole channels to zero, and pattern={pattern.name} prunes single weights: "
                "use pruner/pattern=filter"
            )

    def add(self, layers: Sequence[Penalised], step: int, progress: float) -> None:
        """Add to the gradients of one step.

        Args:
            layers: those in scope.
            step: the optimizer step that is about to be made, from 0.
            progress: along the path at that step, 0..1.
        """
        if progress > 0:
            return
        for layer in layers:
            if layer.gamma.grad is not None:
                layer.gamma.grad.add_(layer.gamma.detach().sign(), alpha=self.strength)


Penalty = BatchNormL1  # the members of this axis
