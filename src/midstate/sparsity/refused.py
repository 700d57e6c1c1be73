"""The one table of combinations of members that make no sense, with the reasons."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from midstate.sparsity.allocations.base import has_budget
from midstate.sparsity.allocations.budget import Budget
from midstate.sparsity.allocations.domino import Domino
from midstate.sparsity.allocations.extracted import is_extracted
from midstate.sparsity.allocations.scheme import Scheme
from midstate.sparsity.criteria.batchnorm_scale import BatchNormScale
from midstate.sparsity.criteria.geometric_median import GeometricMedian
from midstate.sparsity.criteria.l1 import L1
from midstate.sparsity.criteria.l2 import L2
from midstate.sparsity.estimators.candidates import LearnedCombinations
from midstate.sparsity.estimators.dense_gradient import DenseGradient
from midstate.sparsity.estimators.hard_channels import HardChannels
from midstate.sparsity.estimators.multi_axis import MultiAxis
from midstate.sparsity.estimators.s_ste import SSTE
from midstate.sparsity.paths.blocks import Blocks
from midstate.sparsity.paths.combinations import Combinations
from midstate.sparsity.paths.density import Density
from midstate.sparsity.paths.frames import Frames
from midstate.sparsity.paths.n import StepN
from midstate.sparsity.paths.search import Search
from midstate.sparsity.penalty import BatchNormL1
from midstate.sparsity.updates.drop_grow import DropGrow

if TYPE_CHECKING:
    from midstate.sparsity.method import Method


@dataclass(frozen=True)
class Refused:
    """Combinations of members that make no sense.

    Args:
        what: the combination in words, for a table.
        when: tells whether a method is such a combination.
        why: the message, with a remedy; braces hold an attribute of a member.
    """

    what: str
    when: Callable[["Method"], bool]
    why: str

    def reason(self, method: "Method") -> str:
        """The message for a method."""
        return self.why.format(method=method, scope=method.scope, **method.members)

    def says(self, message: str) -> bool:
        """Tell whether a message is made from this entry."""
        fixed = re.split(r"\{[^}]*\}", self.why)
        return re.fullmatch(".*".join(map(re.escape, fixed)), message, re.DOTALL) is not None


def _other_pattern(*kinds: type) -> Callable[["Method"], bool]:
    """Members of classes that need N:M, under another pattern."""
    return lambda m: m.pattern.group != "neighbours" and any(isinstance(each, kinds) for each in m.members.values())


def _no_filters(*kinds: type) -> Callable[["Method"], bool]:
    """Members of classes that need whole filters, under a pattern of single weights."""
    return lambda m: m.pattern.unit != "filter" and any(isinstance(each, kinds) for each in m.members.values())


def _learns(m: "Method") -> bool:
    return isinstance(m.estimator, LearnedCombinations) and isinstance(m.path, Combinations)


def _levels(m: "Method") -> list[int]:
    return list(getattr(m.allocation, "levels", None) or ())


def _reranks_live(m: "Method") -> bool:
    """Tell whether blocks may turn dense again; in a fixed random order they cannot."""
    return isinstance(m.path, Blocks) and m.path.rerank == "live" and m.path.order != "random"


REFUSED = (
    # The pattern
    Refused(
        "`path=n` without N:M",
        _other_pattern(StepN),
        "path=n steps the N of N:M, and pattern={pattern.name} has no N; use pruner/path=density or pruner/path=direct",
    ),
    Refused(
        "`path=blocks` without N:M",
        _other_pattern(Blocks),
        "path=blocks counts the blocks under N:M, and pattern={pattern.name} has none; use pruner/path=density or "
        "direct",
    ),
    Refused(
        "`path=frames` without N:M",
        _other_pattern(Frames),
        "path=frames changes the N and M of N:M, and pattern={pattern.name} has none; use pruner/path=density or "
        "direct",
    ),
    Refused(
        "`path=combinations` without N:M",
        _other_pattern(Combinations),
        "path=combinations is about the ways to keep N of M, and pattern={pattern.name} has none; use "
        "pruner/path=density",
    ),
    Refused(
        "`path=search` without N:M",
        _other_pattern(Search),
        "path=search walks down the N of N:M, and pattern={pattern.name} has no N; use pruner/pattern=nm",
    ),
    Refused(
        "`path=density` with N:M",
        lambda m: isinstance(m.path, Density) and m.pattern.group == "neighbours",
        "path=density prunes the units of a layer one by one, and pattern={pattern.name} counts in groups; use "
        "pruner/path=n",
    ),
    Refused(
        "`criterion=geometric_median` with single weights",
        _no_filters(GeometricMedian),
        "criterion=geometric_median measures distances between filters; pattern={pattern.name} prunes single weights: "
        "use pruner/pattern=filter, or pruner/criterion=l1",
    ),
    Refused(
        "`criterion=batchnorm_scale` with single weights",
        _no_filters(BatchNormScale),
        "criterion=batchnorm_scale has one score a filter, and pattern={pattern.name} prunes single weights: use "
        "pruner/pattern=filter, or pruner/criterion=l1",
    ),
    Refused(
        "`penalty=batchnorm_l1` with single weights",
        _no_filters(BatchNormL1),
        "penalty=batchnorm_l1 draws whole channels to zero, and pattern={pattern.name} prunes single weights: use "
        "pruner/pattern=filter",
    ),
    Refused(
        "`estimator=hard_channels` with single weights",
        _no_filters(HardChannels),
        "estimator=hard_channels takes whole channels away, and pattern={pattern.name} prunes single weights: use "
        "pruner/estimator=hard",
    ),
    Refused(
        "`estimator=multi_axis`, `constant_scale` without N:M",
        _other_pattern(MultiAxis),
        "estimator of MaxQ: its thresholds are shares of N:M, and pattern={pattern.name} has none; use "
        "pruner/estimator=sr_ste",
    ),
    Refused(
        "`estimator=s_ste` without N:M",
        _other_pattern(SSTE),
        "estimator of S-STE: its threshold is one of a group of N:M, and pattern={pattern.name} has none; use "
        "pruner/estimator=ste",
    ),
    Refused(
        "`estimator=candidates` without N:M",
        _other_pattern(LearnedCombinations),
        "estimator=candidates learns which combinations stay; use pruner/path=combinations beside pruner/pattern=nm",
    ),
    Refused(
        "`allocation=domino` without N:M",
        _other_pattern(Domino),
        "allocation=domino walks down the N of N:M, and pattern={pattern.name} has no N",
    ),
    Refused(
        "`allocation=budget`, `per=filter` without N:M",
        lambda m: m.pattern.group != "neighbours" and isinstance(m.allocation, Budget) and m.allocation.per == "filter",
        "per='filter': gives each filter its own N, and pattern={pattern.name} has no N",
    ),
    Refused(
        "`budget=extracted_params`, `extracted_macs` with another pattern than filters",
        lambda m: is_extracted(m.allocation) and m.pattern.unit != "filter",
        "budget={allocation.budget!r}: counts what is left when dead channels are cut out, and pattern={pattern.name} "
        "prunes no whole filters; use pruner/pattern=filter, or pruner.budget=params or macs",
    ),
    Refused(
        "`budget=extracted_params`, `extracted_macs` with `refresh=tick`",
        lambda m: is_extracted(m.allocation) and m.allocation.refresh == "tick",
        "budget={allocation.budget!r}: levels are found by a search over many networks, which is too slow at every "
        "refresh; use pruner.refresh=once",
    ),
    Refused(
        "a `budget` that the pattern does not have",
        lambda m: not has_budget(m.pattern, getattr(m.allocation, "budget", None) or "params"),
        "budget={allocation.budget!r}: is a quantizer's, and pattern={pattern.name} prunes; use params or macs",
    ),
    Refused(
        "`levels` above M",
        lambda m: max(_levels(m), default=0) > getattr(m.pattern, "m", math.inf),
        "levels={allocation.levels}: must be whole numbers from 1 to {pattern.m}",
    ),
    Refused(
        "`levels` all above N",
        lambda m: min(_levels(m), default=0) > getattr(m.pattern, "n", math.inf),
        "levels={allocation.levels}: all exceed the budget, uniform {pattern.title}",
    ),
    Refused(
        "`allocation=scheme`, the file made for another pattern",
        lambda m: isinstance(m.allocation, Scheme) and m.allocation.made_for != m.pattern.identity,
        "scheme={allocation.scheme!r}: was made for {allocation.made_for}, and this run has {pattern.identity}",
    ),
    Refused(
        "`update=drop_grow` with filters",
        lambda m: isinstance(m.update, DropGrow) and m.pattern.unit == "filter",
        "update=drop_grow: a grown filter begins at zero, where BatchNorm has no variance to divide by and its "
        "gradient is hundreds of times too large; use pruner/update=live, or pruner/pattern=weight",
    ),
    Refused(
        "`forced_swaps` with rows or N:M",
        lambda m: bool(m.update.forced_swaps) and m.pattern.group != "layer",
        "forced_swaps={update.forced_swaps}: exchanges units of a whole layer, and pattern={pattern.name} ranks them "
        "in groups; use pruner/pattern=weight or filter",
    ),
    Refused(
        "`pattern=filter` with the classifier in scope",
        lambda m: m.pattern.unit == "filter" and m.pattern.group == "layer" and not m.scope.skip_classifier,
        "pattern=filter with skip_classifier=false: a class without its filter is never answered; use "
        "pruner/scope=filters",
    ),
    Refused(
        "`pattern=channel` with allocations that count and compare single layers",
        lambda m: m.pattern.group == "coupled" and not m.allocation.coupled,
        "pattern=channel prunes channels that several layers share, so these layers cannot have levels of their own; "
        "use pruner/allocation=uniform, global or lamp, or pruner/pattern=filter",
    ),
    Refused(
        "`pattern=channel`, `heads=true` with `skip_linear`",
        lambda m: m.pattern.group == "coupled" and m.pattern.heads and m.scope.skip_linear,
        "heads=true: a head is made by linear layers, and skip_linear=true leaves them dense; use skip_linear=false",
    ),
    Refused(
        "`pattern=channel` with `skip_shortcuts` or `skip_depthwise`",
        lambda m: m.pattern.group == "coupled" and (m.scope.skip_shortcuts or m.scope.skip_depthwise),
        "pattern=channel with skip_shortcuts={scope.skip_shortcuts}, skip_depthwise={scope.skip_depthwise}: a channel "
        "goes with all its filters, those of shortcuts and depthwise convolutions, too, or not at all; use "
        "pruner/scope=channels",
    ),
    # The order of channels
    Refused(
        "`permute=true` with a criterion other than `l1`, `l2`",
        lambda m: m.permutes and not isinstance(m.criterion, L1 | L2),
        "permute=true: looks for an order that keeps more magnitude, and this criterion ranks by something else; use "
        "pruner/criterion=l1, or permute=false",
    ),
    Refused(
        "`permute=true` with `estimator=candidates`",
        lambda m: m.permutes and isinstance(m.estimator, LearnedCombinations),
        "permute=true: estimator=candidates learns which weights stay whatever their magnitude; use permute=false",
    ),
    Refused(
        "`permute=true` with `update=drop_grow`, `initial=random`",
        lambda m: m.permutes and isinstance(m.update, DropGrow) and m.update.initial == "random",
        "permute=true: initial='random' draws the first masks, whatever the magnitudes; use initial=criterion, or "
        "permute=false",
    ),
    Refused(
        "`permute=true` with a level for each filter",
        lambda m: m.permutes and m.allocation.by_filter,
        "permute=true: gives filters other places, and per=filter gives each its own N; use per=layer, or "
        "permute=false",
    ),
    # Criterion and allocation
    Refused(
        "`norm_share` where scores decide the allocation",
        lambda m: bool(getattr(m.criterion, "norm_share", 0)) and m.allocation.refresh != "never",
        "norm_share={criterion.norm_share}: the mix needs to know how many filters go, and this allocation decides "
        "that from the scores; use norm_share=0",
    ),
    Refused(
        "a level for each filter with `estimator=multi_axis`, `constant_scale`",
        lambda m: m.allocation.by_filter and isinstance(m.estimator, MultiAxis),
        "per=filter gives filters of one layer different N's, and estimators of MaxQ need one; use per=layer",
    ),
    Refused(
        "a level for each filter with `path=n`, `granularity=group`",
        lambda m: m.allocation.by_filter and isinstance(m.path, StepN) and m.path.granularity == "group",
        "per=filter gives filters of one layer different N's, and granularity=group needs one; use per=layer",
    ),
    Refused(
        "a level for each filter with `path=combinations`",
        lambda m: m.allocation.by_filter and isinstance(m.path, Combinations),
        "per=filter gives filters of one layer different N's, and path=combinations needs one; use per=layer",
    ),
    Refused(
        "`allocation=domino` without `path=search`, and the other way round",
        lambda m: m.allocation.searches != isinstance(m.path, Search),
        "allocation=domino and path=search belong together: domino decides the levels, path=search puts them in force",
    ),
    Refused(
        "`allocation=domino` with another interval than one step",
        lambda m: m.allocation.searches and m.update.every != "1it",
        "every={update.every!r}: allocation=domino follows every step; use pruner.every=1it",
    ),
    # Combinations
    Refused(
        "`estimator=candidates` with another path than `combinations`",
        lambda m: isinstance(m.estimator, LearnedCombinations) and not isinstance(m.path, Combinations),
        "estimator=candidates learns which combinations stay; use pruner/path=combinations",
    ),
    Refused(
        "`path=combinations` with `indivisible=pad`",
        lambda m: isinstance(m.path, Combinations) and m.scope.indivisible == "pad",
        "indivisible='pad': path=combinations needs whole groups; use pruner.indivisible=skip",
    ),
    Refused(
        "`path=combinations` with `update=drop_grow`",
        lambda m: isinstance(m.path, Combinations) and isinstance(m.update, DropGrow),
        "update=drop_grow ranks single weights, and path=combinations ranks sums of weights; use "
        "pruner/path=direct, or pruner/update=live",
    ),
    Refused(
        "`estimator=candidates` where scores decide the allocation",
        lambda m: _learns(m) and m.allocation.refresh != "never",
        "estimator=candidates has one parameter a combination from the first step on, and this allocation decides "
        "later how many stay; use uniform, erk, or scheme with the scheme.json of a run",
    ),
    Refused(
        "`estimator=candidates` with `regrow=never` or `hysteresis`",
        lambda m: _learns(m) and (m.update.regrow == "never" or bool(m.update.hysteresis)),
        "regrow={update.regrow}, hysteresis={update.hysteresis:g}: these bear on scores, and estimator=candidates "
        "ranks combinations by what it has learnt; use regrow=free and hysteresis=0",
    ),
    # Regrowth of pruned weights
    Refused(
        "`path=frames`, `fine` or `densify`, with `regrow=never`",
        lambda m: isinstance(m.path, Frames) and m.path.frames != "sparsify" and m.update.regrow == "never",
        "regrow=never: frames={path.frames} brings weights back; use pruner.frames=sparsify",
    ),
    Refused(
        "`path=blocks`, `rerank=live` (unless `order=random`) with `update=drop_grow`",
        lambda m: isinstance(m.update, DropGrow) and _reranks_live(m),
        "update=drop_grow: rerank=live lets blocks turn dense again, with weights that are zero; use "
        "pruner.rerank=sticky",
    ),
    Refused(
        "`path=blocks`, `rerank=live` (unless `order=random`) with `regrow=never`",
        lambda m: m.update.regrow == "never" and _reranks_live(m),
        "regrow=never: rerank=live lets blocks turn dense again; use pruner.rerank=sticky",
    ),
    # Fading
    Refused(
        "`path=fade` with `estimator=soft`",
        lambda m: m.path.fades and m.estimator.trains_dense,
        "path=fade: training under estimator=soft never sees what fades; use pruner/estimator=ste",
    ),
    Refused(
        "`path=fade` with `estimator=s_ste`",
        lambda m: m.path.fades and isinstance(m.estimator, SSTE),
        "path=fade: estimator=s_ste shrinks weights by the largest pruned one, and nothing is pruned before the end; "
        "use pruner/path=n, or pruner/estimator=ste",
    ),
    Refused(
        "`path=fade` with `forced_swaps`",
        lambda m: m.path.fades and bool(m.update.forced_swaps),
        "forced_swaps={update.forced_swaps}: exchanges pruned units, and path=fade prunes none before the end; use "
        "another path",
    ),
    Refused(
        "`path=fade` with `update=drop_grow`",
        lambda m: m.path.fades and isinstance(m.update, DropGrow),
        "update=drop_grow: path=fade has all weights in use until its end; use pruner/path=direct",
    ),
    # Drop and grow
    Refused(
        "`update=drop_grow` with `refresh=tick`",
        lambda m: isinstance(m.update, DropGrow) and m.allocation.refresh == "tick",
        "update=drop_grow leaves each layer as many weights as it has, and this allocation counts anew at every "
        "refresh; use pruner.refresh=once, or pruner/update=live",
    ),
    Refused(
        "`update=drop_grow`, `grow=gradient` without `estimator=dense_gradient`",
        lambda m: "step_gradient" in m.update.needs and not isinstance(m.estimator, DenseGradient),
        "grow='gradient': needs the gradient of pruned weights, which is remembered by pruner/estimator=dense_gradient "
        "alone; use it, or pruner.grow=random",
    ),
    Refused(
        "`update=drop_grow` with estimators that train pruned weights",
        lambda m: isinstance(m.update, DropGrow) and not m.estimator.freezes_pruned,
        "grow={update.grow!r}: grown weights begin at zero, and under this estimator pruned ones train on; use "
        "pruner/estimator=hard or dense_gradient",
    ),
    # Members that users add
    Refused(
        "a member whose `patterns` do not name the pattern",
        lambda m: m.misplaced is not None,
        "{method.misplaced}, and this is pattern={pattern.name}",
    ),
    Refused(
        "a criterion that needs `step_gradient` without `estimator=dense_gradient`",
        lambda m: "step_gradient" in m.needs and not isinstance(m.estimator, DenseGradient),
        "needs=('step_gradient',): the last step's gradient is remembered by pruner/estimator=dense_gradient alone; "
        "use it, or needs=('gradient',)",
    ),
)
