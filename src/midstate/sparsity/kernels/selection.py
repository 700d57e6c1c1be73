"""Selection of the k largest scores, exactly k, without sorting all of them.

Ties go to the lower index, and between layers to the earlier one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from midstate.sparsity.kernels.sorting_network import largest_of, nth_largest_of

# Approximate number of sampled scores that narrow down a ranking of whole layers.
SAMPLE = 2**17
# Sampled scores on either side of the estimated place that bound the exact one; the error is a few hundred at most.
MARGIN = 1024
# A sorting network is faster than a selection slice by slice, if slices have at most FEW entries and there are at least
# SLICES slices for each entry of a slice: every comparison is one call.
FEW = 64
SLICES = 100
# Scores in a chunk on a CPU, so that the results of one pass are still in the cache for the next. With smaller chunks
# the calls cost more than the cache saves.
CHUNK = 2**22
NAN = "scores contain NaN, from the weights or from what is measured: they cannot be ranked"


class Unrankable(ValueError):
    """Scores contain NaN, or a measured loss or accuracy is not finite: they have no order."""


def keep_largest(score: Tensor, num_keep: int, dim: int, whole: Tensor | None = None) -> Tensor:
    """Mark the `num_keep` largest entries of `score` along `dim`, exactly that many.

    Ties go to the lower index. A selection, not a sort: one threshold per slice, and the exact
    repair of ties only where a tie crosses the threshold.

    Args:
        score: any shape, of any float type.
        num_keep: 0 to the size of `dim`.
        dim: along which slices are taken.
        whole: marks slices whose entries are all kept instead; score's shape, but size 1 along `dim`.

    Returns:
        BoolTensor of score's shape.

    Raises:
        Unrankable: score contains NaN.
    """
    size = score.shape[dim]
    if dim > 0 and score.device.type == "cpu" and score.numel() > CHUNK and len(score) > 1:
        rows = max(1, CHUNK * len(score) // score.numel())
        wholes = [None] * len(score) if whole is None else whole.split(rows)
        return torch.cat(
            [keep_largest(part, num_keep, dim, each) for part, each in zip(score.split(rows), wholes, strict=False)]
        )
    if num_keep in (0, size):
        refuse_nan(score)
        keep = torch.full_like(score, num_keep > 0, dtype=torch.bool)
        return keep if whole is None else keep | whole
    if size <= FEW and num_keep == 1:
        threshold = largest_of(score, dim)
    elif size <= FEW and score.numel() >= SLICES * size**2:
        threshold = nth_largest_of(score.unbind(dim), num_keep).unsqueeze(dim)
    else:
        threshold = _divided(score.movedim(dim, -1), num_keep)[0].movedim(-1, dim)
    refuse_nan(threshold)
    most = num_keep * threshold.numel()
    if whole is not None:
        threshold = threshold.masked_fill(whole, -torch.inf)
        most += (size - num_keep) * int(whole.count_nonzero())
    keep = at_least(score, threshold)
    # Every slice keeps at least `num_keep`, so none keeps too many if the total is right.
    if int(keep.count_nonzero()) > most:
        over = keep.sum(dim, keepdim=True) > num_keep
        over = over if whole is None else over & ~whole
        _repair(*(each.movedim(dim, -1) for each in (keep, score, threshold)), over.movedim(dim, -1)[..., 0], num_keep)
    return keep


def at_least(score: Tensor, threshold: Tensor) -> Tensor:
    """Return score >= threshold, as bools."""
    if score.device.type != "cpu":
        return score >= threshold
    # Comparing into the score's type and then converting is vectorised on CPUs; comparing into bools directly is not.
    return torch.ge(score, threshold, out=torch.empty_like(score)).bool()


def _repair(keep: Tensor, rows: Tensor, threshold: Tensor, over: Tensor, num_keep: int) -> None:
    """Keep only the tied entries of lower index in the rows that have kept more than `num_keep` (in place)."""
    rows, threshold = rows[over], threshold[over]
    above, tied = rows > threshold, rows == threshold
    missing = num_keep - above.sum(-1, keepdim=True)
    keep[over] = above | (tied & (tied.cumsum(-1) <= missing))


def around(rows: Tensor, num_keep: int) -> tuple[Tensor, Tensor]:
    """The two values on either side of the threshold of a selection.

    Args:
        rows: (*, length), of any float type.
        num_keep: how many of each row are selected, 1..length-1.

    Returns:
        The smallest of the `num_keep` largest of each row, and the largest of the others, (*, 1) each. NaN in a row
        gives NaN.
    """
    above, others = _divided(rows, num_keep)
    return above, others.amax(-1, keepdim=True).masked_fill(above.isnan(), torch.nan)


def _divided(rows: Tensor, num_keep: int) -> tuple[Tensor, Tensor]:
    """Return the smallest of each row's `num_keep` largest, (*, 1), NaN if the row has NaN; and the other entries.

    On a GPU the other entries are only the largest of them.
    """
    if rows.device.type == "cpu":
        known = torch.float32 if rows.dtype == torch.bfloat16 else rows.dtype  # numpy has no bfloat16
        parted = rows.detach().to(known, copy=True, memory_format=torch.contiguous_format)
        num_drop = rows.shape[-1] - num_keep
        parted.numpy().partition(num_drop)  # several times as fast as torch's selections, and stores no indices
        others, kept = parted.to(rows.dtype).split((num_drop, num_keep), -1)
        largest, above = kept.amax(-1, keepdim=True), kept[..., :1]
    else:
        descending = rows.topk(num_keep + 1, -1).values
        largest, above, others = (descending.narrow(-1, place, 1) for place in (0, num_keep - 1, num_keep))
    return above.masked_fill(largest.isnan(), torch.nan), others  # numpy and torch order NaN as the largest


def count_largest(
    scores: Sequence[Callable[[], Tensor]], sizes: Sequence[int], costs: Sequence[int], budget: int
) -> list[int]:
    """Count the units of each layer among the largest of all, taken in order until the budget is used up.

    Args:
        scores: one function a layer that returns its scores, (units,); called up to three times, to save memory.
        sizes: the vectors' lengths.
        costs: cost of one unit of each layer, 1 or more.
        budget: the sum of costs never exceeds it, and the next unit in the ranking would not fit.

    Returns:
        The counts, one a layer.
    """
    stride = distance(sum(sizes))
    if stride > 1:
        # A copy: a view would keep the whole vector in memory.
        sample, weight = _joint([score()[::stride].clone() for score in scores], costs)
        order = sample.argsort(descending=True, stable=True)
        place = int((weight[order].cumsum(0) * stride <= budget).sum())
        counts = _count_between(scores, costs, budget, *_bracket(sample[order], place))
        if counts is not None:
            return counts
    return _count_between(scores, costs, budget, torch.inf, -torch.inf)


def refuse_nan(score: Tensor) -> None:
    """Raise Unrankable if there is NaN among the scores."""
    if score.isnan().any():
        raise Unrankable(NAN)


def distance(size: int) -> int:
    """Stride between sampled entries; no multiple of 2 or 3, so that no kernel position or channel is left out."""
    stride = max(1, size // SAMPLE)
    while stride % 2 == 0 or stride % 3 == 0:
        stride += 1
    return stride


def _bracket(descending: Tensor, place: int) -> tuple[float, float]:
    """The values MARGIN entries before and after a place in a sorted sample; infinite beyond its ends."""
    low = place + MARGIN
    return (
        float(descending[place - MARGIN]) if place >= MARGIN else torch.inf,
        float(descending[low]) if low < len(descending) else -torch.inf,
    )


def _count_between(
    scores: Sequence[Callable[[], Tensor]], costs: Sequence[int], budget: int, high: float, low: float
) -> list[int] | None:
    """Take all above `high` and rank those down to `low`; None if the budget is not used up between the two."""
    counts, middles = [], []
    for score in scores:
        values = score()
        counts.append(int((values > high).sum()))
        middles.append(values[(values <= high) & (values >= low)])
    left = budget - sum(count * cost for count, cost in zip(counts, costs, strict=True))
    middle, weight = _joint(middles, costs)
    if left < 0 or (low > -torch.inf and int(weight.sum()) <= left):
        return None
    order = middle.argsort(descending=True, stable=True)
    taken = order[weight[order].cumsum(0) <= left]
    layer_of = torch.arange(len(costs)).repeat_interleave(torch.tensor([len(m) for m in middles]))
    more = layer_of[taken.cpu()].bincount(minlength=len(costs))
    return [count + int(extra) for count, extra in zip(counts, more, strict=True)]


def _joint(parts: Sequence[Tensor], costs: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Concatenate the layers' values, and the cost of each value."""
    weight = [torch.full((len(part),), cost, device=part.device) for part, cost in zip(parts, costs, strict=True)]
    return torch.cat(list(parts)), torch.cat(weight)
