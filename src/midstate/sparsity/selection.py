"""Selection: the largest of many, exactly that many, without sorting them all.

Scores are 0 or more; ties go to the lower index, and between layers to the earlier one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from midstate.sparsity.networks import nth_largest_of

# Longer slices are narrowed down by a sample first: torch's own selections copy them beside their indices.
LONG = 2**17
# A network of comparisons finds the n-th largest of up to so many entries sooner than a selection slice by slice,
FEW = 64
# where there are as many slices for each of them: every comparison is a call.
SLICES = 100
# Entries of the sample kept on either side of the expected place; its error is a few hundred at most.
MARGIN = 1024


class Unrankable(ValueError):
    """There is NaN among the scores, which has no place in an order."""


NAN = "weights contain NaN: they cannot be ranked"


def keep_largest(score: Tensor, num_keep: int, dim: int) -> Tensor:
    """Mark the `num_keep` largest entries of `score` along `dim`, exactly that many.

    Ties go to the lower index. A selection, not a sort: one threshold per slice, and the exact
    repair of ties only where a tie crosses the threshold.

    Returns:
        BoolTensor of score's shape.

    Raises:
        Unrankable: score contains NaN.
    """
    size = score.shape[dim]
    if num_keep in (0, size):
        refuse_nan(score)
        return torch.full_like(score, num_keep > 0, dtype=torch.bool)
    if score.dim() == 1 and size > LONG:
        threshold = nth_largest(score, num_keep)
    elif size <= FEW and score.numel() >= SLICES * size**2:
        threshold = nth_largest_of(score.unbind(dim), num_keep).unsqueeze(dim)
    elif num_keep == 1:
        threshold = score.amax(dim, keepdim=True)
    else:
        threshold = score.topk(num_keep, dim, sorted=False).values.amin(dim, keepdim=True)
    keep = score >= threshold
    refuse_nan(threshold)  # NaN anywhere in a slice is its threshold
    # Every slice keeps enough, so none keeps too many where the sum is right.
    if int(keep.view(torch.uint8).sum(dtype=torch.int64)) == num_keep * threshold.numel():
        return keep
    above = score > threshold
    missing = num_keep - above.sum(dim, keepdim=True)
    tied = score == threshold
    return above | (tied & (tied.cumsum(dim) <= missing))


def nth_largest(score: Tensor, n: int) -> Tensor:
    """The n-th largest entry (1 is the largest) of a vector of any length.

    Raises:
        Unrankable: score contains NaN.
    """
    refuse_nan(score)
    stride = _stride(len(score))
    high, low = _bracket(score[::stride].sort(descending=True).values, n // stride)
    above = int((score > high).sum())
    middle = score[(score <= high) & (score >= low)]
    if not above < n <= above + len(middle):  # the sample misled
        above, middle = 0, score
    return middle.kthvalue(len(middle) - (n - above) + 1).values


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
    stride = _stride(sum(sizes))
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


def _stride(size: int) -> int:
    """Distance between sampled entries; prime to 2 and 3, so that no kernel position or channel is left out."""
    stride = max(1, size // LONG)
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
