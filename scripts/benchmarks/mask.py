"""mask: N:M masks, blocks, multi-axis and global ranking over the layers of ResNet-50, beside a plain copy.

All ways run in one process, interleaved; a row's figures are medians over repeats, in multiples of a copy's time.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from benchmarks.common import timed
from midstate import sparsity
from midstate.distributed.machine import keep_freed_memory
from midstate.sparsity import NM, LayerView
from midstate.sparsity.kernels.selection import count_largest
from midstate.sparsity.paths.base import layer_masks

PATTERNS = ((1, 4), (2, 4), (1, 8), (2, 8), (4, 8), (1, 16), (2, 16), (4, 16), (8, 16))
THREADS = 2


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a way; on a GPU if there is one."""
    torch.set_num_threads(THREADS)
    keep_freed_memory()  # as in training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    # The stem has 3 input channels and the classifier is left out by every published N:M network.
    weights = [
        module.weight.detach().to(device)
        for name, module in resnet50().named_modules()
        if isinstance(module, nn.Conv2d) and name != "conv1"
    ]
    rows = []
    for n, m in PATTERNS:
        ways = {"ours": each_mask(NM(n, m), weights), **_rivals(n, m, weights)}
        rows.append(_row(f"{n}:{m}", weights, ways, repeats))
    for name, way in _others(weights).items():
        rows.append(_row(name, weights, {"ours": way}, repeats))
    return rows


def _row(name: str, weights: list[Tensor], ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    ways = {"copy": lambda: [weight.clone() for weight in weights], **ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, call in ways.items():
            seconds[way].append(timed(call))
    copy = median(seconds["copy"])
    ratio = {way: round(median(taken) / copy, 1) for way, taken in seconds.items()}
    return {
        "masks": name,
        "copy (ms)": round(1000 * copy, 2),
        **{f"{way}, copies": ratio.get(way, "–") for way in ("ours", "argsort+scatter", "topk", "patterns")},
        "times faster than argsort+scatter": round(median(seconds["argsort+scatter"]) / median(seconds["ours"]), 1)
        if "argsort+scatter" in ratio
        else "–",
    }


def each_mask(pattern: NM, weights: list[Tensor]) -> Callable[[], Any]:
    """Return a function that makes the masks of all weights, as training does."""
    places = [LayerView(weight, level=pattern.n, score_of=lambda layer: layer.weight.abs()) for weight in weights]
    return lambda: layer_masks(pattern, places, [pattern.n] * len(places))


def _rivals(n: int, m: int, weights: list[Tensor]) -> dict[str, Callable[[], Any]]:
    """Return other ways to mask the same groups, as published code has them, by name."""

    def argsort(weight: Tensor) -> Tensor:
        groups = weight.abs().movedim(1, -1).reshape(-1, m)
        drop = groups.argsort(dim=1)[:, : m - n]
        return torch.ones_like(groups).scatter_(1, drop, 0)

    def topk(weight: Tensor) -> Tensor:
        groups = weight.abs().movedim(1, -1).reshape(-1, m)
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, groups.topk(n, dim=1).indices, True)

    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * m) if m <= 8 else None
    if patterns is not None:
        patterns = patterns[patterns.sum(1) == n].to(weights[0].device)

    def by_patterns(weight: Tensor) -> Tensor:
        groups = weight.abs().movedim(1, -1).reshape(-1, m)
        return patterns[(groups @ patterns.T).argmax(dim=1)]

    ways = {"argsort+scatter": argsort, "topk": topk}
    if patterns is not None:  # up to m=8: nobody tries the 12,870 patterns of 8:16
        ways["patterns"] = by_patterns
    return {name: lambda way=way: [way(weight) for weight in weights] for name, way in ways.items()}


def _others(weights: list[Tensor]) -> dict[str, Callable[[], Any]]:
    """Half-way block-progressive masks, hard and soft, and a global ranking."""
    return {
        "1:16 on half of the blocks": lambda: [sparsity.block_nm_mask(weight, 1, 16, 0.5) for weight in weights],
        "the same, multi-axis": lambda: [sparsity.multi_axis_mask(weight, 1, 16, 0.5) for weight in weights],
        "global ranking, 90 %": lambda: _global(weights),
    }


def _global(weights: list[Tensor]) -> list[Tensor]:
    sizes = [weight.numel() for weight in weights]
    scores = [lambda weight=weight: weight.abs().flatten() for weight in weights]
    counts = count_largest(scores, sizes, [1] * len(sizes), sum(sizes) // 10)
    pattern = sparsity.Weight(0.9)
    return [pattern.mask(weight.abs(), count) for weight, count in zip(weights, counts, strict=True)]
