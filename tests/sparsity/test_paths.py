import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstate.sparsity import NM, Blocks, Direct, StepN, block_nm_mask, nm_mask, step_n

ORDERS = ("default", "inverse", "random")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def weight_of(shape=(8, 16, 3, 3), seed=0):
    return torch.randn(shape, generator=generator(seed))


def dense_blocks(mask, m):
    """Which blocks are still dense, in the order (out, kh, kw, group)."""
    return mask.movedim(1, -1).reshape(-1, m).all(1)


def block_norms(weight, m):
    return weight.abs().movedim(1, -1).reshape(-1, m).sum(1)


def test_default_reaches_the_largest_blocks_first_by_hand():
    # Four blocks of two with L1 norms 3, 7, 11, 1.5; at p=0.5 the two smallest stay dense.
    weight = torch.tensor([[1.0, -2.0, 3.0, 4.0], [5.0, -6.0, 1.0, 0.5]])
    assert block_nm_mask(weight, 1, 2, 0.5).int().tolist() == [[1, 1, 0, 1], [0, 1, 1, 1]]
    assert block_nm_mask(weight, 1, 2, 0.5, "inverse").int().tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]
    assert block_nm_mask(weight, 1, 2, 0.25).int().tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]


def test_equal_blocks_the_lower_number_stays_dense_longer_in_out_position_group_order():
    # Two filters, two groups of two, two kernel positions: eight equal blocks.
    weight = torch.ones(2, 4, 1, 2)
    for order in ("default", "inverse"):
        for stay in range(9):
            mask = block_nm_mask(weight, 1, 2, 1 - stay / 8, order)
            assert dense_blocks(mask, 2).int().tolist() == [1] * stay + [0] * (8 - stay)


def test_the_articles_example_has_512_blocks():
    weight = weight_of((32, 64, 1, 1))
    counts = [int(dense_blocks(block_nm_mask(weight, 2, 4, k / 512), 4).sum()) for k in range(513)]
    assert counts == list(range(512, -1, -1))  # 511 states strictly between dense and 2:4


@given(
    seed=st.integers(0, 2**31),
    p=st.floats(0, 1),
    order=st.sampled_from(ORDERS),
    pattern=st.sampled_from([(1, 2), (2, 4), (1, 8), (1, 16), (4, 4)]),
)
def test_counts_ends_and_targets(seed, p, order, pattern):
    n, m = pattern
    weight = weight_of(seed=seed)
    mask = block_nm_mask(weight, n, m, p, order, generator(seed))
    target = nm_mask(weight, n, m)
    per_block = mask.movedim(1, -1).reshape(-1, m).sum(1)
    num_blocks = len(per_block)
    num_dense = int((1 - p) * num_blocks + 1e-9)
    if n < m:
        assert int((per_block == m).sum()) == num_dense
        assert int((per_block == n).sum()) == num_blocks - num_dense
    assert (mask | target).equal(mask)  # what the target keeps is kept all along
    assert block_nm_mask(weight, n, m, 0, order, generator()).all()
    assert block_nm_mask(weight, n, m, 1, order, generator()).equal(target)


@given(seed=st.integers(0, 2**31), p=st.floats(0, 1), q=st.floats(0, 1), order=st.sampled_from(ORDERS))
def test_masks_are_nested_along_the_path_at_fixed_weights(seed, p, q, order):
    weight = weight_of(seed=seed)
    early, late = (block_nm_mask(weight, 1, 8, x, order, generator(seed)) for x in sorted((p, q)))
    assert (late <= early).all()
    early, late = (StepN().mask(NM(1, 8), weight, weight.abs(), 1, x) for x in sorted((p, q)))
    assert (late <= early).all()


@given(seed=st.integers(0, 2**31), p=st.floats(0.05, 0.95))
def test_order_semantics(seed, p):
    weight = weight_of(seed=seed)
    norms = block_norms(weight, 8)
    default = dense_blocks(block_nm_mask(weight, 1, 8, p), 8)
    inverse = dense_blocks(block_nm_mask(weight, 1, 8, p, "inverse"), 8)
    assert norms[default].max() <= norms[~default].min()  # the largest went first
    assert norms[inverse].min() >= norms[~inverse].max()  # the smallest went first


def test_random_is_one_permutation_of_the_generator():
    weight = weight_of()
    first, again, other = (block_nm_mask(weight, 1, 8, 0.5, "random", generator(seed)) for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


def test_norms_are_summed_in_fp32():
    # In fp16 the norm of the first block would round to that of the second.
    weight = torch.tensor([[2048.0, 1.0, 2048.0, 0.0]], dtype=torch.float16)
    assert block_nm_mask(weight, 1, 2, 0.5).int().tolist() == [[1, 0, 1, 1]]


@pytest.mark.parametrize(
    "bad", [{"p": -0.1}, {"p": 1.1}, {"p": float("nan")}, {"order": "largest"}, {"n": 9}, {"m": 3}]
)
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ValueError, match=r"must be|divisible"):
        block_nm_mask(weight_of(), **{"n": 1, "m": 8, "p": 0.5, **bad})


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_nan_is_refused_anywhere_on_the_path(p):
    weight = weight_of()
    weight[3, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        block_nm_mask(weight, 1, 8, p)


def test_partial_blocks_are_padded():
    weight = weight_of((4, 6))
    for p in (0, 0.3, 0.6, 1):
        mask = Blocks().mask(NM(2, 4), weight, weight.abs(), 2, p)
        assert mask.shape == weight.shape
    assert NM(2, 4).verify(weight * mask, 2)


def test_states_are_described_as_a_person_reads_them():
    pattern = NM(1, 16)
    assert StepN().describe(pattern, 1, 0.8) == f"{step_n(1, 16, 0.8)}:16" == "4:16"
    assert Blocks().describe(pattern, 1, 0.37) == "1:16 on 37 % of blocks"
    assert Direct().describe(pattern, 1, 0.0) == "16:16"
