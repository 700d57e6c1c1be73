"""Criteria: which unit matters less. Each is a pure function from a layer's weights to a score for each unit.

Scores are 0 or more; the smallest go first. `needs` names what a criterion looks at that has to be measured or found,
see `LayerView`.
"""

from typing import ClassVar

from torch import Tensor


class Criterion:
    """Base of criteria; members add `score(layer, pattern)`.

    Protocol: `score` is called at every refresh, once a layer; when an allocation compares layers, once more. It must
    not change the layer, and returns 0 or more for each unit; the smallest are pruned.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # what it looks at besides weights, from `NEEDS`
    patterns: ClassVar[tuple[str, ...]] = ()  # names of those it makes sense for; none: all


def widened(x: Tensor) -> Tensor:
    """Half precision as fp32, where squares of small numbers are not 0; any other as it is."""
    return x.float() if x.element_size() < 4 else x


def of_inputs(weight: Tensor, by_channel: Tensor) -> Tensor:
    """Spread one value for each input channel to the weights (O, C, *K) that read it, as (O, C, 1, ...)."""
    channels = weight.shape[1]
    groups = len(by_channel) // channels  # of a grouped convolution
    by_row = by_channel.view(groups, 1, channels).expand(-1, weight.shape[0] // groups, -1)
    return by_row.reshape(weight.shape[0], channels, *[1] * (weight.dim() - 2))
