import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstate.sparsity import block_nm_mask, multi_axis_mask
from midstate.sparsity.estimators.multi_axis import axis_scale


def weight_of(shape, seed=0):
    return 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow_soft(row, n, m, tau):
    """One row by the definition: sorted magnitudes, threshold between the k-th and the next."""
    magnitudes = [abs(value) for value in row]
    k = (m - n) * len(row) // m
    ranked = sorted(range(len(row)), key=lambda i: (magnitudes[i], -i))  # at ties the lower index is kept
    threshold = (magnitudes[ranked[k - 1]] + magnitudes[ranked[k]]) / 2
    gone = set(ranked[:k])
    return [
        0.0 if i in gone else 1 / (1 + math.exp(-max(-700, min(700, (x - threshold) / tau))))
        for i, x in enumerate(magnitudes)
    ]


def slow_mask(weight, n, m, p, order, tau):
    filters, positions = weight.shape[0], weight[0, 0].numel()
    s_filter = torch.tensor([slow_soft(weight[o].flatten().tolist(), n, m, tau) for o in range(filters)])
    scale = 1 + s_filter.view_as(weight)
    if positions > 1:
        by_position = weight.flatten(2).permute(2, 0, 1)
        s_position = torch.tensor([slow_soft(by_position[k].flatten().tolist(), n, m, tau) for k in range(positions)])
        scale += s_position.view_as(by_position).permute(1, 2, 0).reshape(weight.shape)
    return block_nm_mask(weight, n, m, p, order) * scale


@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(4, 16), (4, 16, 1, 1), (4, 16, 3, 3), (3, 8, 2)]),
    pattern=st.sampled_from([(1, 8), (2, 4), (1, 2)]),
    p=st.sampled_from([0.0, 0.4, 1.0]),
    order=st.sampled_from(["default", "inverse"]),
    tau=st.sampled_from([1e-2, 1e-1]),
    ties=st.booleans(),
)
def test_equals_the_slow_definition(seed, shape, pattern, p, order, tau, ties):
    weight = weight_of(shape, seed)
    weight = (weight * 50).round() / 50 if ties else weight
    mask = multi_axis_mask(weight, *pattern, p, order, tau)
    assert torch.allclose(mask, slow_mask(weight, *pattern, p, order, tau), atol=1e-5)


def test_values_lie_between_one_and_three():
    mask = multi_axis_mask(weight_of((16, 32, 3, 3)), 1, 4)
    assert (mask > 0).float().mean() == 0.25
    assert mask[mask > 0].min() >= 1
    assert 2.5 < mask.max() < 3
    assert multi_axis_mask(weight_of((16, 32)), 1, 4).max() < 2  # a linear layer has no kernel positions


def test_at_the_start_it_scales_and_prunes_nothing():
    mask = multi_axis_mask(weight_of((8, 16, 3, 3)), 1, 16, p=0.0)
    assert (mask >= 1).all()
    assert mask.max() > 1


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_m_of_m_gives_ones(p):
    assert torch.equal(multi_axis_mask(weight_of((4, 8, 3, 3)), 4, 4, p), torch.ones(4, 8, 3, 3))


def test_bad_arguments_are_refused():
    weight = weight_of((4, 8))
    for bad in ({"tau": 0}, {"p": 2}, {"n": 5}, {"order": "up"}, {"m": 3}):
        with pytest.raises(ValueError, match=r"must be|divisible"):
            multi_axis_mask(weight, **{"n": 2, "m": 4, **bad})


def test_nan_has_no_place_on_an_axis():
    weight = weight_of((4, 16, 1, 1))
    weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        axis_scale(weight, 1, 4)
