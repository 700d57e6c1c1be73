import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstate.sparsity import selection
from midstate.sparsity.selection import count_largest, keep_largest, nth_largest


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


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_sampling_changes_nothing(monkeypatch, ties, share):
    """Long vectors are narrowed down by a sample; the result is that of a full sort."""
    monkeypatch.setattr(selection, "LONG", 4096)
    generator = torch.Generator().manual_seed(1)
    scores = [
        torch.randn(size, generator=generator).abs() * scale for size, scale in ((50_000, 1), (9, 9), (30_000, 3))
    ]
    scores = [(score * 4).round() for score in scores] if ties else scores
    budget = int(share * 80_009)
    assert count(scores, [1, 1, 1], budget) == slow_counts(scores, [1, 1, 1], budget)
    for score in (scores[0], scores[2]):
        n = max(1, int(share * len(score)))
        assert nth_largest(score, n) == score.sort(descending=True).values[n - 1]
        kept = keep_largest(score, n, 0)
        slow = torch.zeros_like(kept)
        slow[score.argsort(descending=True, stable=True)[:n]] = True
        assert torch.equal(kept, slow)


def test_a_misleading_sample_is_noticed(monkeypatch):
    monkeypatch.setattr(selection, "LONG", 4096)
    score = torch.ones(60_000)
    stride = selection._stride(len(score))
    score[::stride] = 0.0  # all that the sample sees is zero
    assert nth_largest(score, 10) == 1
    assert count([score, torch.full((5,), 2.0)], [1, 1], 105) == [100, 5]
    assert int(keep_largest(score, 100, 0).sum()) == 100


def test_nan_in_a_long_vector_is_refused(monkeypatch):
    monkeypatch.setattr(selection, "LONG", 4096)
    score = torch.rand(50_000)
    score[17] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        keep_largest(score, 100, 0)
