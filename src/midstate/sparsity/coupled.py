"""Coupled channels: filters of several layers that are pruned together, with their scores and masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from midstate.sparsity.allocations.global_ import TINY
from midstate.sparsity.layers import LayerView
from midstate.sparsity.patterns.channel import Channel
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.patterns.pattern import Pattern
from midstate.sparsity.tensors import Layer


@dataclass(frozen=True, eq=False)
class Coupled:
    """A group of alike channels: each of them has filters in the same layers.

    Args:
        filters: (U, B, K) by name of a layer: indices of the layer's K filters that belong to each channel. Channels
            are ranked within B blocks of U (the groups of a grouped convolution; else B = 1) that keep equally many.
    """

    filters: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class CoupledView(LayerView):
    """A group of coupled channels as an allocation, a path and an update see it: as a layer of U levels.

    Its shape is (U, B, weights of a channel); a level L keeps L channels of each block.

    Args:
        members: views of the layers that have filters of these channels.
        filters: indices of the filters, (U, B, K), one tensor a member.
    """

    members: tuple[LayerView, ...] = ()
    filters: tuple[Tensor, ...] = ()

    def num_units(self, pattern: Pattern) -> int:
        """Number of channels that are scored."""
        return self.shape[0] * self.shape[1]

    def units(self, pattern: Pattern, masks: Sequence[Tensor]) -> Tensor:
        """From masks of all layers' weights to a mask of channels, (U, B): in use if one of the filters is."""
        each = [
            pattern.units(masks[view.index])[at].any(-1) for view, at in zip(self.members, self.filters, strict=True)
        ]
        return torch.stack(each).any(0)

    def combined(self, scores: Sequence[Tensor], how: str) -> Tensor:
        """One score a channel, (U, B), from scores of the members' filters, each divided by the mean of its layer.

        Args:
            scores: one vector (O,) a member.
            how: `sum`, `mean` or `max` over all filters of a channel.
        """
        each = [
            (score / score.mean().clamp_min(TINY))[at].flatten(0, 1)
            for score, at in zip(scores, self.filters, strict=True)
        ]
        together = torch.cat(each, 1)
        joined = {"sum": together.sum, "mean": together.mean, "max": together.amax}[how](1)
        return joined.view(self.shape[:2])


@dataclass(frozen=True, eq=False)
class Coupling:
    """The coupled channels of the layers in scope.

    Args:
        groups: of channels; all members of a group are layers in scope.
        layers: those that have filters of these channels.
    """

    groups: tuple[tuple[tuple[int, Tensor], ...], ...]  # pairs: index in `layers`, filters (U, B, K)
    layers: list[Layer]
    shapes: tuple[torch.Size, ...]  # of the layers' weights

    @classmethod
    def of(cls, coupled: Sequence[Coupled], layers: Sequence[Layer]) -> "Coupling":
        """Keep the groups whose layers are all in scope; channels of other groups are not pruned."""
        known = {layer.name for layer in layers}
        whole = [each for each in coupled if each.filters.keys() <= known]
        coupled_layers = {name for each in whole for name in each.filters}
        layers = [layer for layer in layers if layer.name in coupled_layers]
        places = {layer.name: i for i, layer in enumerate(layers)}
        groups = tuple(
            tuple((places[name], at.to(layers[places[name]].weight.device)) for name, at in each.filters.items())
            for each in whole
        )
        return cls(groups, layers, tuple(layer.weight.shape for layer in layers))

    def views(self, layers: Sequence[LayerView]) -> list[CoupledView]:
        """One view a group, from the views of all layers."""
        return [self._view(i, group, layers) for i, group in enumerate(self.groups)]

    def at(self, views: Sequence[CoupledView], levels: Sequence[Level]) -> list[CoupledView]:
        """Copies of the views with target levels, for their members, too."""
        of_layers = self.layer_levels(levels)
        return [
            replace(
                view,
                level=level,
                members=tuple(replace(each, level=of_layers[each.index]) for each in view.members),
            )
            for view, level in zip(views, levels, strict=True)
        ]

    def layer_levels(self, levels: Sequence[Level]) -> list[int]:
        """Number of filters that every layer keeps."""
        kept = [shape[0] for shape in self.shapes]
        for group, level in zip(self.groups, levels, strict=True):
            for place, at in group:
                kept[place] -= (len(at) - level) * at[0].numel()
        return kept

    def spread(self, masks: Sequence[Tensor]) -> list[Tensor]:
        """From masks (or factors) of channels, (U, B) a group, to those of all layers' weights (views)."""
        rows = [masks[0].new_ones(shape[0]) for shape in self.shapes]
        for group, mask in zip(self.groups, masks, strict=True):
            for place, at in group:
                rows[place][at] = mask.unsqueeze(-1).expand(at.shape)
        return [
            row.view(-1, *[1] * (len(shape) - 1)).expand(shape) for row, shape in zip(rows, self.shapes, strict=True)
        ]

    def _view(self, index: int, group: Sequence[tuple[int, Tensor]], layers: Sequence[LayerView]) -> CoupledView:
        members, filters = tuple(layers[place] for place, _ in group), tuple(at for _, at in group)
        sizes = [each.shape[1:].numel() * at.shape[2] for each, at in zip(members, filters, strict=True)]
        macs = sum(each.macs * size for each, size in zip(members, sizes, strict=True))
        units, blocks = filters[0].shape[:2]

        def cost(view: LayerView, level: Level, budget: str) -> int:
            return level * blocks * {"params": sum(sizes), "macs": macs, "units": 1}[budget]

        first = members[0]
        return CoupledView(
            parameter=first.parameter.detach().new_empty(1).expand(units, blocks, sum(sizes)),  # one element
            name=first.name if len(members) == 1 else f"{first.name} and {len(members) - 1} more",
            index=index,
            step=first.step,
            seed=first.seed,
            generators=first.generators,
            score_of=first.score_of,
            cost_of=cost,
            members=members,
            filters=filters,
        )


def coupling_of(pattern: Pattern | None, coupled: Sequence[Coupled] | None, layers: Sequence[Layer]) -> Coupling | None:
    """The coupling for pattern=channel; None for other patterns.

    Raises:
        ValueError: `coupled` is None, or no channel can be pruned.
    """
    if not isinstance(pattern, Channel):
        return None
    if coupled is None:
        raise ValueError(
            "pattern=channel: which filters go together is found by midstate.compaction.coupled_channels(model, "
            "shape); give them to the pruner as `coupled`"
        )
    coupling = Coupling.of(coupled, layers)
    if not coupling.groups:
        raise ValueError(
            f"pattern=channel: no channel of {[layer.name for layer in layers]} can go: each is one of the outputs, is "
            "normalised over channels, or belongs to a layer out of scope, too; see pruner/scope"
        )
    return coupling
