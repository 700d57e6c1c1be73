"""Criteria: which unit matters less. Each is a pure function from a layer's weights to a score for each unit.

Scores are 0 or more; the smallest go first. `needs` names the measurements that a criterion reads besides the weights,
see `LayerView`.
"""

from typing import ClassVar

from torch import Tensor


class Criterion:
    """Base of criteria; members add `score(layer, pattern)`.

    Protocol: `score` is called for each layer at every refresh, and again when layers are compared or weights are
    exchanged. It must not change the layer, and returns 0 or more for each unit; the smallest are pruned.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # measurements that it reads besides weights, from `NEEDS`
    patterns: ClassVar[tuple[str, ...]] = ()  # names of the patterns it works with; empty: all


def widened(x: Tensor) -> Tensor:
    """Convert half precision to fp32, so that squares do not underflow to 0; return other types unchanged."""
    return x.float() if x.element_size() < 4 else x


def of_inputs(weight: Tensor, by_channel: Tensor) -> Tensor:
    """Arrange one value per input channel, (groups * C,), as (O, C, 1, ...), to match weights (O, C, *K)."""
    channels = weight.shape[1]
    groups = len(by_channel) // channels  # of a grouped convolution
    by_row = by_channel.view(groups, 1, channels).expand(-1, weight.shape[0] // groups, -1)
    return by_row.reshape(weight.shape[0], channels, *[1] * (weight.dim() - 2))
