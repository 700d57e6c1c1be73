"""Grids against values derived by hand, and against slow obvious versions."""

import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans

from midstate.quantization import KMeans, Uniform
from midstate.quantization.grids.kmeans import lloyd, nearest


def fitted(grid, weight, bits):
    memory = grid.memory(weight, bits)
    grid.fit(weight, bits, memory)
    return memory


def test_uniform_by_hand():
    weight = torch.tensor([[-0.7, 0.34, 0.1, 0.0]])  # 8 values of 3 bits would be asymmetric: there are 7
    memory = fitted(Uniform(clip="max"), weight, 3)
    assert memory["step"].item() == pytest.approx(0.7 / 3)
    step = memory["step"]
    assert torch.equal(Uniform().quantise(weight, 3, memory), torch.tensor([[-3.0, 1.0, 0.0, 0.0]]) * step)
    assert torch.equal(Uniform().values(3, memory), torch.arange(-3.0, 4.0)[None] * step)


def test_a_step_for_each_filter():
    weight = torch.tensor([[1.0, -0.2], [8.0, 4.0]])
    memory = fitted(Uniform(per_channel=True, clip="max"), weight, 2)
    assert torch.equal(memory["step"], torch.tensor([[1.0], [8.0]]))
    assert torch.equal(Uniform(per_channel=True).quantise(weight, 2, memory), torch.tensor([[1.0, 0.0], [8.0, 0.0]]))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_few_bits_are_clipped_where_the_squared_error_is_least(bits):
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    grid = Uniform()
    memory = fitted(grid, weight, bits)
    largest, high = weight.abs().max(), 2 ** (bits - 1) - 1
    errors = []
    for i in range(1, 65):
        step = largest * (i / 64) / high
        errors.append(float(((weight / step).round().clamp(-high, high) * step - weight).square().sum()))
    own = float((grid.quantise(weight, bits, memory) - weight).square().sum())
    assert own == pytest.approx(min(errors), rel=1e-5)


def test_what_a_mask_keeps_out_counts_for_nothing():
    weight = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(16) % 2 == 0
    alone = fitted(KMeans(), weight[:, mask], 3)["codebook"]
    assert torch.equal(fitted(KMeans(), weight * mask, 3)["codebook"], alone)
    assert (alone[:8] != 0).all()


def test_an_empty_layer_keeps_its_step():
    grid, weight = Uniform(), torch.zeros(2, 4)
    assert torch.equal(fitted(grid, weight, 4)["step"], torch.ones(1))
    assert torch.equal(grid.quantise(weight, 4, grid.memory(weight, 4)), weight)


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_kmeans_is_as_good_as_sklearns(bits):
    x = torch.randn(2000, generator=torch.Generator().manual_seed(bits))
    centres = lloyd(x, 2**bits, 300)
    own = float((nearest(x, centres) - x).square().sum())
    found = SklearnKMeans(2**bits, n_init=5, random_state=0, max_iter=300).fit(x[:, None].numpy())
    assert own <= 1.05 * found.inertia_
    # It is a fixed point: each centre is the mean of what is nearest to it.
    taken = nearest(x.double(), centres.double())
    for centre in centres.double():
        assert x.double()[taken == centre].mean() == pytest.approx(float(centre), abs=1e-5)


def test_fewer_numbers_than_centres():
    x = torch.tensor([1.0, 1.0, 2.0])
    centres = lloyd(x, 8, 10)
    assert torch.equal(nearest(x, centres), x)


def test_halfway_goes_to_the_lower():
    assert torch.equal(nearest(torch.tensor([0.5, 0.51]), torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize(("field", "make"), [("clip", lambda: Uniform(clip="most")), ("iterations", lambda: KMeans(0))])
def test_refused(field, make):
    with pytest.raises(ValueError, match=field):
        make()
