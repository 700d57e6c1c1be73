import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstate.sparsity import (
    L1,
    NM,
    Blocks,
    Density,
    Direct,
    Filter,
    Hard,
    LayerView,
    Method,
    Row,
    Scope,
    StepN,
    Uniform,
    Update,
    Weight,
    block_nm_mask,
    nm_mask,
    step_n,
)

ORDERS = ("default", "inverse", "random")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def weight_of(shape=(8, 16, 3, 3), seed=0):
    return torch.randn(shape, generator=generator(seed))


def view(weight, level, mask=None, seed=0):
    magnitude = lambda layer: layer.weight.abs()  # noqa: E731
    return LayerView(weight, level=level, in_force=mask, score_of=magnitude, generators=lambda *_: generator(seed))


def walk(path, pattern, weight, level, p, mask=None):
    """The mask of one layer at progress p; `mask` is the one in force."""
    return path.masks(pattern, [view(weight, level, mask)], p)[0]


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
    early, late = (walk(StepN(), NM(1, 8), weight, 1, x) for x in sorted((p, q)))
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
        mask = walk(Blocks(), NM(2, 4), weight, 2, p)
        assert mask.shape == weight.shape
    assert NM(2, 4).verify(weight * mask, 2)


def test_states_are_described_as_a_person_reads_them():
    pattern = NM(1, 16)
    assert StepN().describe(pattern, "1:16", 0.8) == f"{step_n(1, 16, 0.8)}:16" == "4:16"
    assert StepN("group").describe(pattern, "1:16", 0.5) == "9:16, 50 % of groups at 8"
    assert StepN().describe(pattern, "mixed 1:16", 0.5) == "50 % of the way to mixed 1:16"
    assert Blocks().describe(pattern, "1:16", 0.37) == "1:16 on 37 % of blocks"
    assert Direct().describe(pattern, "1:16", 0.0) == "dense"


def on_the_way(pattern, weight, level, p):
    place = LayerView(weight, level=level, score_of=lambda layer: pattern.pool(layer.weight.abs()))
    return int(Density().masks(pattern, [place], p)[0].sum())


def test_density_prunes_units_one_by_one_down_to_the_target():
    weight = weight_of((16, 5))
    # A uniform level follows the share before rounding: of 16 filters floor(0.3 * p * 16) are gone, 4 from p = 5/6 on.
    assert [on_the_way(Filter(0.3), weight, 12, p) for p in (0.1, 0.42, 0.83, 0.84, 1)] == [16, 14, 13, 12, 12]
    # Any other level is counted down in whole units.
    assert [on_the_way(Filter(0.3), weight, 6, p) for p in (0.1, 0.5, 0.99, 1)] == [15, 11, 7, 6]
    assert [on_the_way(Weight(0.8), weight, 16, p) for p in (0.5, 0.99, 1)] == [48, 16, 16]
    assert [on_the_way(Row(0.8), weight, 1, p) for p in (0.5, 1)] == [48, 16]
    assert Density().describe(Weight(0.8), "20 % of weights", 0.5) == "50 % of the way to 20 % of weights"


def test_powers_of_two_by_hand():
    path = StepN(steps="powers_of_two")
    assert [path.level_at(1, 16, k / 4) for k in range(5)] == [16, 8, 4, 2, 1]
    assert [path.level_at(3, 16, k / 3) for k in range(4)] == [16, 8, 4, 3]
    assert [path.level_at(2, 4, p) for p in (0, 0.99, 1)] == [4, 4, 2]
    assert path.level_at(4, 4, 1) == 4
    # Every filter walks to its own N.
    assert path.level_at(torch.tensor([1, 8, 16]), 16, 0.5).tolist() == [4, 16, 16]
    assert StepN().level_at(torch.tensor([1, 8, 16]), 16, 0.5).tolist() == [9, 12, 16]


@given(seed=st.integers(0, 2**31), p=st.floats(0, 1), steps=st.sampled_from(["single", "powers_of_two"]))
def test_dithering_moves_groups_one_by_one_from_one_n_to_the_next(seed, p, steps):
    weight = weight_of((4, 16, 2, 2), seed)
    path, plain = StepN("group", steps), StepN("layer", steps)
    mask = walk(path, NM(1, 8), weight, 1, p)
    per_group = mask.movedim(1, -1).reshape(-1, 8).sum(1)
    now, then, share = path._between(1, 8, p)
    num_still = int((1 - share) * 32 + 1e-9) if now != then else 32
    assert sorted(per_group.tolist()) == sorted([now] * num_still + [then] * (32 - num_still))
    norms = block_norms(weight, 8)
    if 0 < num_still < 32:
        assert norms[per_group == then].min() >= norms[per_group == now].max()  # the largest step first
    assert (mask <= walk(plain, NM(1, 8), weight, 1, p)).all()
    assert walk(path, NM(1, 8), weight, 1, 1).equal(nm_mask(weight, 1, 8))


def test_the_staircase_has_the_states_of_the_n_path_at_its_density():
    weight = weight_of((16, 16, 3, 3))
    for k in range(8):
        for p in (k / 7, min(1.0, k / 7 + 0.1)):
            mask = walk(Blocks(staircase=True), NM(1, 8), weight, 1, p)
            assert mask.equal(block_nm_mask(weight, 1, 8, k / 7))
            stepped = walk(StepN(), NM(1, 8), weight, 1, p)
            assert abs(float(mask.float().mean() - stepped.float().mean())) < 7 / 8 / 288  # one block of 288


def test_ranking_over_the_network_takes_the_largest_blocks_wherever_they_are():
    weights = [weight_of((4, 8)), 10 * weight_of((4, 8), 1)]
    places = [view(w, 1, None, i) for i, w in enumerate(weights)]
    masks = Blocks(rank="network").masks(NM(1, 4), places, 0.5)
    assert [int(dense_blocks(mask, 4).sum()) for mask in masks] == [8, 0]  # all of the larger layer went
    masks = Blocks("inverse", rank="network").masks(NM(1, 4), places, 0.5)
    assert [int(dense_blocks(mask, 4).sum()) for mask in masks] == [0, 8]
    masks = Blocks("random", rank="network").masks(NM(1, 4), places, 0.5)
    assert sum(int(dense_blocks(mask, 4).sum()) for mask in masks) == 8


def test_sticky_blocks_never_turn_dense_again():
    path, pattern, mask = Blocks(rerank="sticky"), NM(1, 8), None
    turned = 0
    for step in range(11):
        weight = weight_of(seed=step)  # other weights at every refresh: live ranking would flip blocks
        live = walk(Blocks(), pattern, weight, 1, step / 10)
        new = walk(path, pattern, weight, 1, step / 10, mask)
        assert int(dense_blocks(new, 8).sum()) == int(dense_blocks(live, 8).sum())  # as many, not the same
        if mask is not None:
            assert (dense_blocks(new, 8) <= dense_blocks(mask, 8)).all()
            turned += int((dense_blocks(live, 8) & ~dense_blocks(mask, 8)).sum())
        mask = new
    assert turned > 0
    # Looking back along the path, the states are still well defined and nested.
    earlier = walk(path, pattern, weight, 1, 0.3, mask)
    assert int(dense_blocks(earlier, 8).sum()) == int(0.7 * 144 + 1e-9)


def test_random_at_each_tick_is_the_generators_affair():
    weight = weight_of()
    for order, changes in (("random", False), ("random_tick", True)):
        layers = [LayerView(weight, level=1, step=step, score_of=lambda layer: layer.weight.abs()) for step in (0, 1)]
        (first,), (second,) = (Blocks(order).masks(NM(1, 8), [layer], 0.5) for layer in layers)
        assert first.equal(second) != changes
    first, second = (block_nm_mask(weight, 1, 8, 0.5, "random_tick", generator(seed)) for seed in (1, 2))
    assert not first.equal(second)


@pytest.mark.parametrize(
    ("path", "pattern", "message"),
    [
        (StepN(), Filter(0.3), "path=n steps the N of N:M, and pattern=filter has no N"),
        (Blocks(), Weight(0.3), "path=blocks counts the blocks under N:M, and pattern=weight has none"),
        (Density(), NM(2, 4), "path=density prunes the units of a layer one by one"),
    ],
)
def test_paths_without_meaning_are_refused(path, pattern, message):
    with pytest.raises(ValueError, match=message):
        Method(Scope(), pattern, L1(), Uniform(), path, Update(), Hard())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepN("filter"), "granularity='filter': must be one of layer, group"),
        (lambda: StepN(steps="halves"), "steps='halves': must be one of single, powers_of_two"),
        (lambda: Blocks(rank="global"), "rank='global': must be one of layer, network"),
        (lambda: Blocks(rerank="frozen"), "rerank='frozen': must be one of live, sticky"),
        (lambda: Blocks(staircase="yes"), "staircase='yes': must be true or false"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
