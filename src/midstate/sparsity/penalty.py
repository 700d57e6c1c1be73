"""Penalties: terms added to gradients before anything is pruned, so that pruning loses less.

`add` runs once before every optimizer step, on real gradients (after unscaling, before clipping, also with
gradient accumulation). It changes gradients, such as that of `layer.parameter`, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from midstate.common import checks
from midstate.sparsity.layers import LayerView


@dataclass(frozen=True)
class BatchNormL1:
    """L1 on gammas, while progress is 0: grad += strength * sign(gamma) (Liu et al., arXiv 1708.06519).

    Args:
        strength: 0 or more.
    """

    strength: float = 1e-4
    needs: ClassVar[tuple[str, ...]] = ("batchnorm_scale",)

    def __post_init__(self) -> None:
        checks.number("strength", self.strength, 0)

    def add(self, layers: Sequence[LayerView], step: int, progress: float) -> None:
        """Add to the gradients of one step.

        Args:
            layers: views of the layers in scope.
            step: the optimizer step that is about to be made, from 0.
            progress: along the path at that step, 0..1.
        """
        if progress > 0:
            return
        for layer in layers:
            gamma = layer.batchnorm_scale
            if gamma.grad is not None:
                gamma.grad.add_(gamma.detach().sign(), alpha=self.strength)


Penalty = BatchNormL1  # type of the penalty axis
