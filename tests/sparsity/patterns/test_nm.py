import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstate.sparsity import NM, nm_mask, verify_nm
from midstate.sparsity.kernels.selection import keep_largest


def weights(shape, seed, ties):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (values * 2).round() / 2 if ties else values  # rounding makes many ties


def slow_nm_mask(weight, n, m):
    """The definition, one group at a time: sort by magnitude, the lower index first among equals."""
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    flat = weight.reshape(*weight.shape[:2], -1)
    for out in range(flat.shape[0]):
        for position in range(flat.shape[2]):
            for group in range(0, flat.shape[1], m):
                magnitudes = flat[out, group : group + m, position].abs().tolist()
                best = sorted(range(m), key=lambda i: (-magnitudes[i], i))[:n]
                for i in best:
                    mask.reshape(flat.shape)[out, group + i, position] = True
    return mask


def test_two_of_four_by_hand():
    weight = torch.tensor([[0.1, -0.9, 0.5, 0.2, -0.3, 0.3, 0.0, 0.1]])
    expected = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(nm_mask(weight, 2, 4), expected)


def test_one_of_two_on_a_convolution_groups_input_channels_not_positions():
    # One filter, two input channels, a 1x2 kernel: the groups are (c0, c1) at each position.
    weight = torch.tensor([[[[1.0, 5.0]], [[2.0, 4.0]]]])
    expected = torch.tensor([[[[False, True]], [[True, False]]]])
    assert torch.equal(nm_mask(weight, 1, 2), expected)


def test_ties_keep_the_lower_index():
    assert nm_mask(torch.ones(1, 8), 1, 4).int().tolist() == [[1, 0, 0, 0, 1, 0, 0, 0]]
    assert nm_mask(torch.zeros(1, 8), 3, 4).int().tolist() == [[1, 1, 1, 0, 1, 1, 1, 0]]
    assert nm_mask(torch.tensor([[1.0, 2.0, -2.0, 2.0]]), 2, 4).int().tolist() == [[0, 1, 1, 0]]


@given(
    seed=st.integers(0, 2**31),
    out=st.integers(1, 4),
    groups=st.integers(1, 3),
    kernel=st.sampled_from([(), (1,), (1, 1), (3, 3)]),
    m=st.sampled_from([1, 2, 4, 8, 16]),
    ties=st.booleans(),
    data=st.data(),
)
def test_equals_the_slow_definition(seed, out, groups, kernel, m, ties, data):
    n = data.draw(st.integers(1, m))
    weight = weights((out, groups * m, *kernel), seed, ties)
    mask = nm_mask(weight, n, m)
    assert torch.equal(mask, slow_nm_mask(weight, n, m))
    assert (mask.unflatten(1, (groups, m)).sum(2) == n).all()
    assert verify_nm(weight * mask, n, m)


@given(seed=st.integers(0, 2**31), ties=st.booleans(), k=st.integers(0, 12))
def test_permuting_groups_permutes_the_mask(seed, ties, k):
    score = weights((6, 12), seed, ties)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(keep_largest(score[order], k, 1), keep_largest(score, k, 1)[order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    weight = weights((4, 32, 3, 3), 0, False).to(dtype)
    assert torch.equal(nm_mask(weight, 2, 4), slow_nm_mask(weight, 2, 4))


def test_channels_last_gives_the_same_mask():
    weight = weights((4, 32, 3, 3), 0, False)
    assert torch.equal(nm_mask(weight.contiguous(memory_format=torch.channels_last), 1, 16), nm_mask(weight, 1, 16))


def test_infinities_are_ranked_and_nan_is_refused():
    weight = torch.tensor([[float("inf"), 1.0, -float("inf"), 2.0]])
    assert nm_mask(weight, 2, 4).int().tolist() == [[1, 0, 1, 0]]
    weight[0, 1] = float("nan")
    for n in (1, 2, 3, 4):
        with pytest.raises(ValueError, match="NaN"):
            nm_mask(weight, n, 4)


@pytest.mark.parametrize("n", [1, 2])
def test_nan_in_one_group_is_not_hidden_by_ties_in_another(n):
    # Too few kept in the first group, as many too many in the second: the sum over both would look right.
    weight = torch.tensor([[float("nan"), 1.0, 2.0, 3.0, 5.0, 5.0, 5.0, 0.0]])
    if n == 1:
        weight[0, 6] = 0.0
    with pytest.raises(ValueError, match="NaN"):
        nm_mask(weight, n, 4)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (1, 0), (1.5, 4), ("1", 4), (True, 4)])
def test_impossible_patterns_are_refused(n, m):
    with pytest.raises(ValueError, match=r"must be a whole number"):
        nm_mask(torch.ones(2, 8), n, m)


def test_indivisible_channels_are_refused():
    with pytest.raises(ValueError, match="6 input channels are not divisible by m=4"):
        nm_mask(torch.ones(2, 6), 2, 4)
    assert not verify_nm(torch.zeros(2, 6), 2, 4)


def test_verify_counts_non_zeros():
    assert verify_nm(torch.tensor([[1.0, 0, 0, 2.0]]), 2, 4)
    assert not verify_nm(torch.tensor([[1.0, 1.0, 0, 2.0]]), 2, 4)
    assert verify_nm(torch.zeros(1, 4), 1, 4)


def test_a_partial_group_keeps_its_share():
    # 6 channels at 2:4: one whole group keeps 2; the partial group of 2 keeps ceil(2 * 2 / 4) = 1.
    pattern = NM(2, 4)
    score = torch.tensor([[4.0, 3.0, 2.0, 1.0, 1.0, 2.0]])
    mask = pattern.mask(score, 2)
    assert mask.int().tolist() == [[1, 1, 0, 0, 0, 1]]
    assert pattern.kept(score.shape, 2) == 3
    assert pattern.verify(score * mask, 2)
    assert not pattern.verify(score, 2)


@given(
    seed=st.integers(0, 2**31),
    channels=st.sampled_from([16, 20, 5]),
    kernel=st.sampled_from([(), (3, 3)]),
    level=st.sampled_from([0, 1, 4, 8, "by filter"]),
    ties=st.booleans(),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_groups_that_stay_dense_are_whole_and_the_others_as_without_them(seed, channels, kernel, level, ties, layout):
    score = weights((300, channels, *kernel), seed, ties).abs()
    score = score.to(memory_format=layout) if kernel else score
    score[0] = -torch.inf  # what may not come back
    pattern, groups = NM(2, 8), -(-channels // 8)
    level = torch.tensor([1, 2, 8] * 100) if level == "by filter" else level
    dense = torch.rand(300, groups, *kernel, generator=torch.Generator().manual_seed(seed)) < 0.5
    spread = dense.repeat_interleave(8, 1)[:, :channels]
    assert pattern.mask(score, level, dense).equal(pattern.mask(score, level) | spread)
