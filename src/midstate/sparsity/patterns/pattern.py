"""The union of all patterns, and the check of finished weights."""

from torch import Tensor

from midstate.sparsity.patterns.channel import Channel
from midstate.sparsity.patterns.filter import Filter
from midstate.sparsity.patterns.nm import NM, Level
from midstate.sparsity.patterns.row import Row
from midstate.sparsity.patterns.weight import Weight

Pattern = NM | Weight | Row | Filter | Channel


def verify(weight: Tensor, pattern: Pattern, level: Level) -> bool:
    """Tell whether the finished weights of one layer obey the pattern, and have not collapsed.

    Args:
        weight: (O, C) or (O, C, *K), masks folded in.
        pattern: the pattern.
        level: the layer's target level; 0 only where a layer was to be emptied.

    Returns:
        False if any group has more non-zeros than `level`, and also if the layer has collapsed: no weight is left
        although `level` is not 0.
    """
    asked_empty = not (level.any() if isinstance(level, Tensor) else level)
    return pattern.verify(weight, level) and (asked_empty or bool(weight.any()))
