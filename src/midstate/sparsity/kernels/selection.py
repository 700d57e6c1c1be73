"""Selection: the largest of many, exactly that many, without sorting them all.

Scores are 0 or more; ties go to the lower index, and between layers to the earlier one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from midstate.sparsity.kernels.sorting_network import largest_of, nth_largest_of

# Entries of the sample by which a ranking of whole layers is narrowed down.
SAMPLE = 2**17
# Entries of it that are kept on either side of the expected place; its error is a few hundred at most.
MARGIN = 1024
# A network of comparisons finds the n-th largest of up to so many entries sooner than a selection slice by slice,
FEW = 64
# where there are as many slices for each of them: every comparison is a call.
SLICES = 100
# Weights of which masks are made at once on a CPU, so that what one pass leaves is in the cache for the next. In a
# smaller chunk the calls cost more than that saves.
CHUNK = 2**22
NAN = "weights contain NaN: they cannot be ranked"


class Unrankable(ValueError):
    """There is NaN among the scores, which has no place in an order."""


def keep_largest(score: Tensor, num_keep: int, dim: int, whole: Tensor | None = None) -> Tensor:
    """Mark the `num_keep` largest entries of `score` along `dim`, exactly that many.

    Ties go to the lower index. A selection, not a sort: one threshold per slice, and the exact
    repair of ties only where a tie crosses the threshold.

    Args:
        score: any shape, of any float type.
        num_keep: 0 to the size of `dim`.
        dim: along which slices are taken.
        whole: marks slices of which all entries are kept instead; as score, but 1 long along `dim`.

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
    # Every slice keeps enough, so none keeps too many where the sum is right.
    if int(keep.count_nonzero()) > most:
        over = keep.sum(dim, keepdim=True) > num_keep
        over = over if whole is None else over & ~whole
        _repair(*(each.movedim(dim, -1) for each in (keep, score, threshold)), over.movedim(dim, -1)[..., 0], num_keep)
    return keep


def at_least(score: Tensor, threshold: Tensor) -> Tensor:
    """score >= threshold, bools."""
    if score.device.type != "cpu":
        return score >= threshold
    # Vector instructions compare to the same type, and make that bools; to bools at once, processors do it one by one.
    return torch.ge(score, threshold, out=torch.empty_like(score)).bool()


def _repair(keep: Tensor, rows: Tensor, threshold: Tensor, over: Tensor, num_keep: int) -> None:
    """Keep only the tied entries of lower index in the rows that have kept more than `num_keep` (in place)."""
    rows, threshold = rows[over], threshold[over]
    above, tied = rows > threshold, rows == threshold
    missing = num_keep - above.sum(-1, keepdim=True)
    keep[over] = above | (tied & (tied.cumsum(-1) <= missing))


def around(rows: Tensor, num_keep: int) -> tuple[Tensor, Tensor]:
    """The values on both sides of a selection.

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
    """The smallest of each row's `num_keep` largest, (*, 1), NaN where one is in the row; and others, the next among
    them.
    """
    if rows.device.type == "cpu":
        known = torch.float32 if rows.dtype == torch.bfloat16 else rows.dtype  # numpy has no bfloat16
        parted = rows.detach().to(known, copy=True, memory_format=torch.contiguous_format)
        num_drop = rows.shape[-1] - num_keep
        parted.numpy().partition(num_drop)  # several times as fast as torch's selections, and without indices beside it
        others, kept = parted.to(rows.dtype).split((num_drop, num_keep), -1)
        largest, above = kept.amax(-1, keepdim=True), kept[..., :1]
    else:
        descending = rows.topk(num_keep + 1, -1).values
        largest, above, others = (descending.narrow(-1, place, 1) for place in (0, num_keep - 1, num_keep))
    return above.masked_fill(largest.isnan(), torch.nan), others  # both order NaN as the largest


def count_largest(
    scores: Sequence[Callable[[], Tensor]], sizes: Sequence[int], costs: Sequence[int], budget: int
) -> list[int]:
    """Count how many units of each layer are among the largest of all, taken until their costs reach a budget.

    Args:
        scores: one function a layer, giving a vector; called twice, so that one layer's exists at a time.
        sizes: the vectors' lengths.
        costs: cost of one unit of each layer, 1 or more.
        budget: the sum of costs never exceeds it, and the next unit in the ranking would not fit.

    Returns:
        The counts, one a layer.
    """
    stride = distance(sum(sizes))
    if stride > 1:
        # A copy: a view would keep the whole vector alive.
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
    """Distance between sampled entries; prime to 2 and 3, so that no kernel position or channel is left out."""
    stride = max(1, size // SAMPLE)
    while stride % 2 == 0 or stride % 3 == 0:
        stride += 1
    return stride


def _bracket(descending: Tensor, place: int) -> tuple[float, float]:
    """Two values of a sorted sample between which the place lies."""
    low = place + MARGIN
    return (
        float(descending[place - MARGIN]) if place >= MARGIN else torch.inf,
        float(descending[low]) if low < len(descending) else -torch.inf,
    )


def _count_between(
    scores: Sequence[Callable[[], Tensor]], costs: Sequence[int], budget: int, high: float, low: float
) -> list[int] | None:
    """Take all above `high` and rank those down to `low`; None if the budget does not end between the two."""
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
    """Join the layers' values, and beside each value its cost."""
    weight = [torch.full((len(part),), cost, device=part.device) for part, cost in zip(parts, costs, strict=True)]
    return torch.cat(list(parts)), torch.cat(weight)
