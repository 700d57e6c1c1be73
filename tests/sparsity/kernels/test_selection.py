import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstate.sparsity.kernels import selection
from midstate.sparsity.kernels.selection import around, count_largest, keep_largest


def count(scores, costs, budget):
    return count_largest([lambda s=s: s for s in scores], [len(s) for s in scores], costs, budget)


def slow_counts(scores, costs, budget):
    """The definition: all units in one sorted list, taken while their costs fit."""
    units = [(-value, layer) for layer, score in enumerate(scores) for value in score.tolist()]
    counts, spent = [0] * len(scores), 0
    for _, layer in sorted(units):  # among equals the earlier layer first
        if spent + costs[layer] > budget:
            break
        counts[layer], spent = counts[layer] + 1, spent + costs[layer]
    return counts


@given(seed=st.integers(0, 2**31), ties=st.booleans(), share=st.floats(0, 1), costs=st.booleans())
def test_counts_equal_the_slow_definition(seed, ties, share, costs):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(size, generator=generator) for size in (7, 40, 1, 23)]
    scores = [(score * 4).round() for score in scores] if ties else scores
    prices = [3, 1, 5, 2] if costs else [1] * 4
    budget = int(share * sum(len(score) * price for score, price in zip(scores, prices, strict=True)))
    assert count(scores, prices, budget) == slow_counts(scores, prices, budget)


@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(200,), (3, 40), (2, 70, 5), (300, 4, 9), (2, 300, 4, 3)]),
    ties=st.booleans(),
    share=st.floats(0, 1),
    marked=st.sampled_from([None, 0.0, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    dim=st.integers(0, 3),
)
def test_selections_equal_a_stable_sort(seed, shape, ties, share, marked, dtype, dim):
    """By networks or not, with ties or not, whatever the axis and however the scores are stored."""
    generator, dim = torch.Generator().manual_seed(seed), dim % len(shape)
    score = torch.rand(shape, generator=generator).to(dtype)
    score = (score * 4).round() if ties else score
    num_keep = round(share * shape[dim])
    one = [*shape[:dim], 1, *shape[dim + 1 :]]
    whole = None if marked is None else torch.rand(one, generator=generator) < marked
    order = score.argsort(dim=dim, descending=True, stable=True).narrow(dim, 0, num_keep)
    slow = torch.zeros(shape, dtype=torch.bool).scatter_(dim, order, True)
    slow = slow if whole is None else slow | whole
    assert keep_largest(score, num_keep, dim, whole).equal(slow)
    assert keep_largest(score.transpose(0, -1).contiguous().transpose(0, -1), num_keep, dim, whole).equal(slow)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_values_on_both_sides_of_a_selection(dtype):
    rows = torch.tensor([[3, 1, 2, 5], [4, 4, 4, 0], [1, 2, float("nan"), 3]], dtype=dtype)
    above, below = around(rows, 2)
    assert above[:2].tolist() == [[3], [4]]
    assert below[:2].tolist() == [[2], [4]]
    assert above[2].isnan()
    assert below[2].isnan()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_sampling_changes_nothing(monkeypatch, ties, share):
    """Many units are narrowed down by a sample; the counts are those of a full sort."""
    monkeypatch.setattr(selection, "SAMPLE", 4096)
    generator = torch.Generator().manual_seed(1)
    scores = [
        torch.randn(size, generator=generator).abs() * scale for size, scale in ((50_000, 1), (9, 9), (30_000, 3))
    ]
    scores = [(score * 4).round() for score in scores] if ties else scores
    budget = int(share * 80_009)
    assert count(scores, [1, 1, 1], budget) == slow_counts(scores, [1, 1, 1], budget)


@pytest.mark.parametrize("shape", [(64, 3, 7), (5, 40), (1, 16, 40)])
@pytest.mark.parametrize("marked", [False, True])
def test_selections_in_chunks_are_the_same(monkeypatch, shape, marked):
    scores = torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(0)).float()
    whole = scores.sum(1, keepdim=True) > scores.sum(1).mean() if marked else None
    at_once = keep_largest(scores, 2, 1, whole)
    monkeypatch.setattr(selection, "CHUNK", 100)
    assert torch.equal(keep_largest(scores, 2, 1, whole), at_once)


def test_a_misleading_sample_is_noticed(monkeypatch):
    monkeypatch.setattr(selection, "SAMPLE", 4096)
    score = torch.ones(60_000)
    score[:: selection.distance(len(score) + 5)] = 0.0  # all that the sample sees of it is zero
    assert count([score, torch.full((5,), 2.0)], [1, 1], 105) == [100, 5]


@pytest.mark.parametrize("size", [50, 50_000])
def test_nan_in_a_vector_is_refused(size):
    score = torch.rand(size)
    score[17] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        keep_largest(score, size // 2, 0)
