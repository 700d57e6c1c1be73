"""Paths: the intermediate states (中间态) a network passes through from dense to its target.

Each path is a pure function from progress p in [0, 1] to masks, one a layer; the end of every path is the
target itself. The paths of N:M are in `nm_paths`.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Generator, Tensor

from midstate.sparsity.nm import Level
from midstate.sparsity.patterns import Pattern
from midstate.sparsity.schedules import Window
from midstate.sparsity.selection import NAN, Unrankable

if TYPE_CHECKING:
    from midstate.sparsity.method import Method

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """One layer as a path sees it; a path changes none of it."""

    weight: Tensor  # (O, C) or (O, C, *K)
    score: Callable[[], Tensor]  # of the pattern's units; made when asked for, so that one layer's exists at a time
    level: Level  # the target
    mask: Tensor  # of weights, in force now
    generator: Generator  # of the layer's random orders
    alpha: Tensor | None = None  # of an estimator that learns combinations, (groups, combinations)


def layer_masks(
    pattern: Pattern, places: Sequence[Place], levels: Sequence[Level], dense: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """The pattern at a level each: layer by layer, or N:M on a GPU in one kernel, which gives the same bits.

    `dense` marks the groups of N:M of which all is kept, (O, groups, *K) each.
    """
    first = places[0].weight if places else torch.empty(0)
    if pattern.name == "nm" and _has_kernel(first.device, first.dtype):
        masks = _masks_by_kernel(pattern.m, [place.score() for place in places], levels)
        if masks is not None:
            if dense is None:
                return masks
            return [mask | marks.repeat_interleave(pattern.m, 1) for mask, marks in zip(masks, dense, strict=True)]
    if dense is None:
        return [pattern.mask(place.score(), level) for place, level in zip(places, levels, strict=True)]
    return [pattern.mask(place.score(), *rest) for place, *rest in zip(places, levels, dense, strict=True)]


def _masks_by_kernel(m: int, scores: Sequence[Tensor], levels: Sequence[Level]) -> list[Tensor] | None:
    """Masks of all layers at once; None where the kernel does not take such scores or levels."""
    from midstate.sparsity import nm_kernel  # needs Triton

    if not nm_kernel.fits(scores, levels, m):
        return None
    masks, has_nan = nm_kernel.keep_largest_of_groups(scores, levels, m)
    if has_nan.item():
        raise Unrankable(NAN)
    return masks


@cache
def _has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether Triton works for a type on a device: a GPU, or any under its interpreter (TRITON_INTERPRET=1)."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return False
    try:
        from midstate.sparsity import nm_kernel

        if dtype not in nm_kernel.TYPES:
            return False
        (mask,), has_nan = nm_kernel.keep_largest_of_groups([torch.ones(1, 4, device=device, dtype=dtype)], [1], 4)
        if has_nan.item() or mask.tolist() != [[True, False, False, False]]:
            raise RuntimeError("it computes something else")
    except Exception as error:  # whatever a missing package, compiler or header raises
        log.warning(f"warning: masks are made layer by layer, more slowly: Triton does not work here ({error})")
        return False
    return True


class Path:
    """What every path has: patterns it makes sense for, and a window. Members add `masks` and `describe`."""

    patterns: ClassVar[tuple[str, ...]] = ("weight", "row", "filter", "nm")
    refusal: ClassVar[str] = ""
    by_filter: bool = True  # whether filters of one layer may have levels of their own
    probed: ClassVar[bool] = True  # whether its states lie at known places, where gaps can be probed
    one_level: ClassVar[str] = ""  # where they may not: because of what
    fades: ClassVar[bool] = False  # whether masks on the way hold factors, from 0 to 1, on weights that are all in use
    redraws: bool = False  # whether a random order is drawn anew at every refresh

    def check(self, pattern: Pattern) -> None:
        """Raise ValueError if the path makes no sense for this pattern."""
        if pattern.name not in self.patterns:
            raise ValueError(self.refusal.format(pattern=pattern.name))

    def check_beside(self, method: "Method") -> None:
        """Raise ValueError if the path makes no sense beside other axes of a method."""
        if method.estimator.learns_combinations:
            beside = "" if method.pattern.name == "nm" else " beside pruner/pattern=nm"
            raise ValueError(
                f"estimator=candidates learns which combinations stay; use pruner/path=combinations{beside}"
            )

    def check_levels(self, pattern: Pattern, levels: Sequence[Level] | None) -> None:
        """Raise ValueError if the path cannot lead to these target levels, one a layer; None: any may be asked for."""

    def window(self, window: Window) -> Window:
        """The window this path moves in; the schedule's own unless a path says otherwise."""
        return window


@dataclass(frozen=True)
class Direct(Path):
    """No state between: one jump from dense to the target when the schedule's window opens."""

    def window(self, window: Window) -> Window:
        """The jump is at the window's start; curve and stop have nothing to move."""
        return replace(window, curve="one_shot", stop=window.start)

    def masks(self, pattern: Pattern, places: Sequence[Place], p: float) -> list[Tensor]:
        """The pattern at its target; progress 0 never comes here."""
        return layer_masks(pattern, places, [place.level for place in places])

    def describe(self, pattern: Pattern, level: str, p: float) -> str:
        """The state in a few words."""
        return level if p > 0 else "dense"


@dataclass(frozen=True)
class Density(Path):
    """The share of pruned units rises from 0 to the target's, the same way in every layer."""

    patterns: ClassVar[tuple[str, ...]] = ("weight", "row", "filter")
    refusal: ClassVar[str] = (
        "path=density prunes the units of a layer one by one, and pattern={pattern} counts in groups; use pruner/path=n"
    )

    def masks(self, pattern: Pattern, places: Sequence[Place], p: float) -> list[Tensor]:
        """As many units as the level at progress p keeps."""
        return layer_masks(
            pattern, places, [pattern.on_the_way(place.weight.shape, place.level, p) for place in places]
        )

    def describe(self, pattern: Pattern, level: str, p: float) -> str:
        """The state in a few words."""
        return level if p == 1 else f"{100 * p:.0f} % of the way to {level}"


@dataclass(frozen=True)
class Fade(Path):
    """Weights about to go count 1 - p times, those about to stay once: the mask decay of arXiv 2402.04744.

    Which ones go is asked at every refresh, at the target's level. All are in use until the end, when they go at once;
    so nothing has been pruned before, and what may not regrow, hysteresis and decay on pruned weights begin there.
    """

    fades: ClassVar[bool] = True

    def check_beside(self, method: "Method") -> None:
        """Estimators must see the factors, or have something pruned to measure by."""
        super().check_beside(method)
        if method.estimator.trains_dense:
            raise ValueError("path=fade: training under estimator=soft never sees what fades; use pruner/estimator=ste")
        if method.estimator.continuous:
            raise ValueError(
                "path=fade: estimator=s_ste shrinks weights by the largest pruned one, and nothing is pruned before "
                "the end; use pruner/path=n, or pruner/estimator=ste"
            )
        if method.update.forced_swaps:
            raise ValueError(
                f"forced_swaps={method.update.forced_swaps}: exchanges pruned units, and path=fade prunes none before "
                "the end; use another path"
            )

    def masks(self, pattern: Pattern, places: Sequence[Place], p: float) -> list[Tensor]:
        """1 on what the target keeps and 1 - p elsewhere; at the end the masks themselves."""
        masks = layer_masks(pattern, places, [place.level for place in places])
        if p == 1:
            return masks
        return [torch.where(mask, 1.0, 1 - p).to(place.weight.dtype) for mask, place in zip(masks, places, strict=True)]

    def describe(self, pattern: Pattern, level: str, p: float) -> str:
        """The state in a few words."""
        return level if p == 1 else f"{level}, the others at {100 * (1 - p):.0f} %"
