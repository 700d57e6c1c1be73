"""Narrower dense networks: all widths times one factor, the largest at which a budget is not exceeded.

Recipes that have `widths` get smaller ones; other networks keep only the first channels of every layer.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import floor
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from midstate.common import checks
from midstate.compaction.counting import weight_uses
from midstate.distributed.environment import local_rank
from midstate.models.sliced import Sliced, torch_pruning
from midstate.models.start import Recipe
from midstate.sparsity import weight_layers

log = logging.getLogger(__name__)
MATCHES = {"params": "params_sparse", "macs": "macs_sparse"}  # of each, its key in a summary


@dataclass(frozen=True)
class Narrow:
    """Target size: that of a finished run's network without dead channels, or a share of the dense network.

    Args:
        like: a run's directory or its summary.json, or the directory of an experiment's runs, which stands for the
            finished run of the same seed, network and data.
        match: the quantity that must not exceed the budget: `params` or `macs`.
        density: the budget as a share of the dense network's parameters or multiply-accumulates, above 0, to 1.
    """

    like: str | None
    match: str
    density: float | None

    def __post_init__(self) -> None:
        checks.one_of("match", self.match, MATCHES)
        if (self.like is None) == (self.density is None):
            raise ValueError(
                "one of pruner.like=RUN (a finished run to be as small as) and pruner.density=SHARE (of the dense "
                f"network) is needed, and {'none' if self.like is None else 'both'} given"
            )
        if self.like is not None:
            checks.text("like", self.like)
        elif checks.number("density", self.density, 0, 1) == 0:
            raise ValueError("density=0: must be above 0; a network without weights is no network")

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError if a recipe brings trained weights, or needs torch-pruning, which is not installed."""
        for name in ("checkpoint", "pretrained"):
            if value := getattr(recipe, name, None):
                raise ValueError(f"model.{name}={value}: a narrower network has no trained weights; leave it out")
        if not hasattr(recipe, "widths"):
            torch_pruning()

    def budget(self, allowed: int | None, wide: nn.Module, images: Tensor) -> int:
        """Parameters, or multiply-accumulates an image, that must not be exceeded.

        Args:
            allowed: size of the run `like`; None: the budget is a share of the dense network.
            wide: the dense network.
            images: (N, C, H, W).
        """
        if allowed is not None:
            return allowed
        return floor(self.density * self.size(wide, images) + 1e-6)

    def size(self, model: nn.Module, images: Tensor) -> int:
        """Parameters of a dense network, or its multiply-accumulates an image."""
        if self.match == "params":
            return sum(parameter.numel() for parameter in model.parameters())
        uses = weight_uses(model, images)
        return sum(layer.weight.numel() * uses.get(layer.name, 0) for layer in weight_layers(model))


def narrowed(
    recipe: Recipe, wide: nn.Module, narrow: Narrow, allowed: int | None, images: Tensor, num_classes: int
) -> tuple[Any, dict[str, Any]]:
    """Find the widest network within the budget.

    Args:
        recipe: recipe of the wide network.
        wide: the network that it makes.
        narrow: how narrow.
        allowed: size of the run `narrow.like`; None: the budget is a share.
        images: (N, C, H, W), of the data.
        num_classes: of the data.

    Returns:
        The recipe of the narrow network, and a dict with its `widths`, or its `share` of all channels.

    Raises:
        ValueError: the narrowest network exceeds the budget, the wide one is smaller than it, or a cut fails.
    """
    factors, at = _choices(recipe, wide, images)
    bar = tqdm(desc="looking for widths", unit="network", leave=False, disable=True if local_rank() else None)

    @cache
    def size(factor: Fraction) -> int:
        bar.update()  # each size of a large network takes seconds
        return narrow.size(at(factor).create(images.shape[1], num_classes), images)

    budget, whole = narrow.budget(allowed, wide, images), narrow.size(wide, images)
    if budget > whole:
        raise ValueError(
            f"like={narrow.like!r}: its {budget:,} {narrow.match} are more than the {whole:,} of the whole network; it "
            "is a run of a larger one, or of larger images"
        )
    with bar:
        place = bisect_right(factors, budget, key=size)
    if place == 0:
        raise ValueError(
            f"{narrow.match}: {budget:,} are allowed, and the narrowest network, {_typed(at(factors[0]))}, has "
            f"{size(factors[0]):,}"
        )
    best = at(factors[place - 1])
    found = size(factors[place - 1])
    log.info(
        f"narrowed to {_typed(best)}: {found:,} {narrow.match}, at most {budget:,} wanted "
        f"({100 * (found / budget - 1):+.2g} %)"
    )
    return best, _found(best)


def _choices(
    recipe: Recipe, wide: nn.Module, images: Tensor
) -> tuple[list[Fraction], Callable[[Fraction], Recipe | Sliced]]:
    """All factors at which a width changes, ascending, and a function from factor to recipe."""
    if hasattr(recipe, "widths"):
        half = Fraction(1, 2)  # widths are rounded to the nearest
        factors = {(each - half) / width for width in recipe.widths for each in range(1, width + 1)}
        return sorted(factors), lambda factor: replace(
            recipe, widths=[max(1, floor(width * factor + half)) for width in recipe.widths]
        )
    widths = {layer.weight.shape[0] for layer in weight_layers(wide)}
    factors = {Fraction(each, width) for width in widths for each in range(1, width + 1)}
    return sorted(factors), lambda factor: Sliced(recipe, factor, images)


def _found(recipe: Recipe | Sliced) -> dict[str, Any]:
    if not isinstance(recipe, Sliced):
        return {"widths": recipe.widths}
    return {"share": float(recipe.share)}


def _typed(recipe: Recipe | Sliced) -> str:
    if not isinstance(recipe, Sliced):
        return f"model.widths={recipe.widths}".replace(" ", "")
    return f"{100 * float(recipe.share):.4g} % of the channels of every layer"
