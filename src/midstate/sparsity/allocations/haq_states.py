"""HAQ's environment, without state: what the agent sees of a network, and which levels its actions mean.

Every layer's level has one part (an N, filters, bits of weights) or two (bits of weights and of activations); the agent
decides them one after another, layer by layer, the weights of a layer first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.nm import Level


def features(layers: Sequence[LayerView]) -> Tensor:
    """Eight numbers a layer, each scaled to 0..1 over the layers (0 where all are equal): (layers, 8), fp64.

    Whether the layer is depthwise, its input and output channels, stride (linear: 0), kernel size, number of weights,
    positions of its input, and its index.
    """
    raw = torch.tensor([_features(layer) for layer in layers], dtype=torch.float64)
    low, high = raw.min(0).values, raw.max(0).values
    return (raw - low) / (high - low).clamp_min(1e-300)


def _features(layer: LayerView) -> list[float]:
    outputs, inputs = layer.shape[:2]
    stride, kernel = (layer.stride, layer.shape[-1]) if layer.is_conv and len(layer.shape) > 2 else (0, 1)
    channels = outputs if layer.is_depthwise else inputs
    positions = layer.macs * max(1, stride) ** 2
    return [layer.is_depthwise, channels, outputs, stride, kernel, layer.shape.numel(), positions, layer.index]


@dataclass(frozen=True)
class Space:
    """The schemes of a network.

    Args:
        choices: for each layer and each part of its level, the values that the part may have, in ascending order.
        cost: from a layer's index and a level to its cost.
        limit: maximum of the sum of costs.
        pairs: whether levels are tuples.
    """

    choices: Sequence[Sequence[Sequence[int]]]
    cost: Callable[[int, Level], int]
    limit: int
    pairs: bool

    @classmethod
    def of(cls, options: Sequence[Sequence[Level]], cost: Callable[[int, Level], int], limit: int) -> "Space":
        """The schemes of layers that may have these levels."""
        pairs = isinstance(options[0][0], tuple)
        levels = [[level if pairs else (level,) for level in each] for each in options]
        return cls([[sorted(set(part)) for part in zip(*each, strict=True)] for each in levels], cost, limit, pairs)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Pairs (layer, part of its level), in the order in which they are decided."""
        return [(i, k) for i, each in enumerate(self.choices) for k in range(len(each))]

    @property
    def state_size(self) -> int:
        """Length of a state: ten where levels are pairs, else nine."""
        return 10 if self.pairs else 9

    def states(self, of_layers: Tensor, actions: Sequence[float]) -> list[Tensor]:
        """States before each of the decisions so far, and the state before the next one, if there is one.

        Args:
            of_layers: from `features`.
            actions: 0..1, decided so far.

        Returns:
            Vectors of a layer's features, the last decided value over the highest possible one (at first 1), and,
            where levels are pairs, 1 before weights are decided and 0 before activations.
        """
        last, found = 1.0, []
        for number, (i, k) in enumerate(self.parts[: len(actions) + 1]):
            found.append(torch.cat([of_layers[i], torch.tensor([last] + [1.0 - k] * self.pairs, dtype=torch.float64)]))
            if number < len(actions):
                values = self.choices[i][k]
                last = values[to_index(actions[number], values)] / values[-1]
        return found

    def levels(self, actions: Sequence[float], repair: str) -> list[Level]:
        """The scheme that actions mean, repaired to the limit, see `repaired`."""
        indices = [[0] * len(each) for each in self.choices]
        for (i, k), action in zip(self.parts, actions, strict=True):
            indices[i][k] = to_index(action, self.choices[i][k])
        return self.repaired(indices, repair)

    def repaired(self, indices: Sequence[Sequence[int]], repair: str) -> list[Level]:
        """Levels from indices into the choices, lowered in sweeps over the layers until the limit holds.

        A sweep lowers each layer by one level (of a pair first the activations, then the weights), and stops as soon as
        the limit holds. A part on which a layer's cost does not depend is left alone.

        Args:
            indices: one list a layer, with an index for each part.
            repair: order of a sweep, `deepest` or `shallowest` layer first, or by `cost`, the largest first.

        Raises:
            ValueError: the lowest levels exceed the limit.
        """
        indices = [list(each) for each in indices]
        costs = [self._cost(i, each) for i, each in enumerate(indices)]
        while sum(costs) > self.limit:
            before = [list(each) for each in indices]
            for i, k in self._sweep(costs, repair):
                if sum(costs) > self.limit and self._lowers(i, indices[i], k):
                    indices[i][k] -= 1
                    costs[i] = self._cost(i, indices[i])
            if indices == before:
                raise ValueError(f"allocation: the lowest levels cost {sum(costs):,}, and the budget is {self.limit:,}")
        return [self._level(i, each) for i, each in enumerate(indices)]

    def _sweep(self, costs: Sequence[int], repair: str) -> list[tuple[int, int]]:
        """Pairs (layer, part) in the order of a sweep; the last part of each layer first."""
        layers = list(range(len(costs)))
        orders = {"deepest": layers[::-1], "shallowest": layers, "cost": sorted(layers, key=lambda i: -costs[i])}
        return [(i, k) for i in orders[repair] for k in reversed(range(len(self.choices[i])))]

    def _lowers(self, i: int, indices: Sequence[int], k: int) -> bool:
        """Tell whether a part has lower values and the lowest costs less, the other parts being as they are or lowest.

        If no part of a layer does, the layer costs no more than at its lowest level.
        """
        beside_lowest = [index if j == k else 0 for j, index in enumerate(indices)]
        return indices[k] > 0 and any(
            self._cost(i, [0 if j == k else index for j, index in enumerate(each)]) < self._cost(i, each)
            for each in (indices, beside_lowest)
        )

    def _cost(self, i: int, indices: Sequence[int]) -> int:
        return self.cost(i, self._level(i, indices))

    def _level(self, i: int, indices: Sequence[int]) -> Level:
        level = tuple(values[index] for values, index in zip(self.choices[i], indices, strict=True))
        return level if self.pairs else level[0]


def to_index(action: float, values: Sequence[int]) -> int:
    """Index of the value that an action means: that of round((high - low + 1) * action + low - 0.5), within the list.

    `low` and `high` are the first and last value if the values are consecutive, as bits are, else the end indices.
    """
    low = values[0] if values[-1] - values[0] == len(values) - 1 else 0
    return min(len(values) - 1, max(0, round(len(values) * action + low - 0.5) - low))
