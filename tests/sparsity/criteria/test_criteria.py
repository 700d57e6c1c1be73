import pytest
import torch
from torch import Generator, nn

from midstate.sparsity import (
    L1,
    L2,
    NM,
    OBD,
    Direct,
    Filter,
    GeometricMedian,
    Global,
    Hard,
    LayerView,
    Method,
    Random,
    Sample,
    Scope,
    Taylor,
    Uniform,
    Update,
    Wanda,
    Weight,
)
from midstate.sparsity.observe import input_norms, mean_loss

WEIGHT = torch.tensor([[3.0, -4.0], [1.0, 1.0], [0.0, -2.0]])


def layer(weight=WEIGHT, level=None, **measured):
    measure = {name: lambda found=found: found for name, found in measured.items()}
    return LayerView(weight, level=level, seed=3, measure=measure)


def test_norms_by_hand():
    assert L1().score(layer(), Weight(0.5)).tolist() == [[3, 4], [1, 1], [0, 2]]
    assert L1().score(layer(), Filter(0.5)).tolist() == [7, 2, 2]
    assert L2().score(layer(), Filter(0.5)).tolist() == pytest.approx([5, 2**0.5, 2])
    assert L2().score(layer(), NM(1, 2)).tolist() == [[3, 4], [1, 1], [0, 2]]


def test_random_is_the_same_at_every_refresh_and_ignores_the_weights():
    first = Random().score(layer(), Weight(0.5))
    assert torch.equal(first, Random().score(layer(WEIGHT * 7), Weight(0.5)))
    assert Random().score(layer(), Filter(0.5)).shape == (3,)


def test_wanda_by_hand_also_for_grouped_convolutions():
    norm = torch.tensor([1.0, 10.0])
    assert Wanda().score(layer(input_norm=norm), Weight(0.5)).tolist() == [[3, 40], [1, 10], [0, 20]]
    assert Wanda().score(layer(input_norm=norm), Filter(0.5)).tolist() == [43, 11, 20]
    grouped = torch.ones(4, 1, 1, 1)  # two groups of one input channel, two filters each
    assert Wanda().score(layer(grouped, input_norm=norm), Weight(0.5)).flatten().tolist() == [1, 1, 10, 10]


def slow_distances(filters):
    return [sum(float((a.double() - b.double()).norm()) for b in filters) for a in filters]


def test_geometric_median_equals_the_slow_definition():
    weight = torch.randn(6, 3, 2, 2)
    score = GeometricMedian().score(layer(weight), Filter(0.5))
    assert score.tolist() == pytest.approx(slow_distances(weight.flatten(1)), rel=1e-5)


def test_the_mix_takes_the_smallest_norms_first_and_measures_among_those_that_remain():
    # On a line: the smallest norm goes first; then the filter nearest to the other three.
    weight = torch.tensor([[0.1], [5.0], [6.0], [9.0]])
    score = GeometricMedian(0.5).score(layer(weight, level=2), Filter(0.5))
    assert score.tolist() == [0.0, 5.0, 4.0, 7.0]
    assert Filter(0.5).mask(score, 2).tolist() == [False, True, False, True]
    # By distance alone the outlier 0.1 would have stayed.
    assert Filter(0.5).mask(GeometricMedian().score(layer(weight), Filter(0.5)), 2).tolist() == [
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_ranks_as_fp32_does(dtype):
    weight = torch.tensor([1e-5, 1e-4, 2e-5, 3e-5]).view(1, 4, 1, 1).to(dtype)
    for criterion, measured in (
        (L2(), {}), (Taylor(), {"gradient": torch.full_like(weight, 0.1)}), (OBD(), {"fisher": torch.ones_like(weight)})
    ):  # fmt: skip
        assert criterion.score(layer(weight, **measured), Weight(0.5)).flatten().argsort().tolist() == [0, 2, 3, 1]
    filters = torch.tensor([[1.0], [2.0], [4.0]]).view(3, 1, 1, 1).to(dtype)
    assert GeometricMedian().score(layer(filters, 2), Filter(0.5)).tolist() == [4, 3, 5]


def test_zeroed_filters_are_chosen_again():
    """They cluster at zero, nearest to each other: what was pruned first stays pruned if it cannot move."""
    generator = Generator().manual_seed(0)
    for _ in range(20):
        weight = torch.randn(16, 8, generator=generator)
        mask = Filter(0.4).mask(GeometricMedian().score(layer(weight), Filter(0.4)), 10)
        weight = weight * mask[:, None] + 0.02 * torch.randn(16, 8, generator=generator) * mask[:, None]
        assert torch.equal(Filter(0.4).mask(GeometricMedian().score(layer(weight), Filter(0.4)), 10), mask)


def method(pattern, criterion, allocation):
    return Method(Scope(), pattern, criterion, allocation, Direct(), Update(), Hard())


def test_products_without_meaning_are_refused():
    with pytest.raises(ValueError, match="distances between filters; pattern=nm prunes single weights"):
        method(NM(1, 4), GeometricMedian(), Uniform())
    with pytest.raises(ValueError, match=r"norm_share=0\.5: the mix needs to know how many"):
        method(Filter(0.3), GeometricMedian(0.5), Global())
    method(Filter(0.3), GeometricMedian(), Global())


def test_input_norms_and_loss_by_hand():
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 2, bias=False))
    model[0].weight.data.copy_(torch.eye(2)[..., None, None])
    images = torch.tensor([[[1.0, 2], [3, 4]], [[0, 0], [0, 6]]])[None]
    layers = Scope(False, False).resolve(model, None, None)
    norms = input_norms(model, layers, Sample(images, torch.tensor([1])))
    assert norms[0].tolist() == pytest.approx([7.5**0.5, 3.0])
    assert norms[1].tolist() == images.flatten().tolist()
    model[2].weight.data.zero_()
    assert mean_loss(model, Sample(images, torch.tensor([1]))) == pytest.approx(0.6931, abs=1e-4)
    assert model.training
