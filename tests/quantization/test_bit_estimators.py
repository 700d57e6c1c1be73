"""Gradients of estimators against hand derivations and finite differences."""

import math

import pytest
import torch

from midstate.quantization import DDQ, LSQ, PACT, STE, Kind, KMeans, Levels, Uniform
from midstate.quantization.estimators.ddq import Gate, mixed, open_gates

WEIGHTS, INPUTS = Kind(3), Kind(2, signed=False, weights=False)


def begun(estimator, x, kind):
    memory = dict(estimator.memory(x, kind))
    estimator.start(x, kind, memory)
    return memory


@pytest.mark.parametrize("grid", [Uniform(), Uniform(per_channel=True), KMeans()])
def test_straight_through(grid):
    weight = torch.randn(4, 6, requires_grad=True)
    estimator = STE(grid)
    memory = begun(estimator, weight.detach(), WEIGHTS)
    out = estimator.apply(weight, WEIGHTS, memory)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    assert torch.equal(weight.grad, gradient)
    rows = estimator.values(WEIGHTS, memory)
    for row, values in zip(out if len(rows) > 1 else out.reshape(1, -1), rows, strict=True):
        assert torch.isin(row.detach(), values).all()
    assert rows.shape[1] <= 8


def test_lsq_by_hand():
    """Values -4 ... 3 times the step; N = 4 elements share it, so the scale is 1 / sqrt(4 * 3)."""
    x = torch.tensor([[0.26, -0.9, 5.0, -7.0]], requires_grad=True)
    estimator = LSQ(Uniform())
    memory = {"step": torch.nn.Parameter(torch.tensor([0.5]))}
    out = estimator.apply(x, WEIGHTS, memory)
    assert torch.equal(out, torch.tensor([[0.5, -1.0, 1.5, -2.0]]))
    gradient = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    out.backward(gradient)
    assert torch.equal(x.grad, torch.tensor([[1.0, 10.0, 0.0, 0.0]]))
    by_step = 1.0 * (1 - 0.52) + 10 * (-2 + 1.8) + 100 * 3 + 1000 * -4
    assert memory["step"].grad.item() == pytest.approx(by_step / math.sqrt(12), rel=1e-5)


def test_the_gradient_of_an_inputs_step_does_not_depend_on_how_a_batch_is_divided():
    """N of inputs is the number of features (section 2.2), so micro-batches of `accumulate` add up to the batch's."""
    kind, x, gradients = Kind(4, signed=False, weights=False), torch.randn(12, 3, 5).abs(), []
    for parts in (1, 3, 12):
        step = torch.nn.Parameter(torch.tensor([0.1]))
        for part in x.chunk(parts):
            (LSQ().apply(part, kind, {"step": step}).square().sum() / len(x)).backward()
        gradients.append(step.grad.item())
    assert gradients[1:] == pytest.approx(gradients[:1] * 2, rel=1e-5)
    ratio = x / 0.1
    by_step = torch.where(ratio >= 15, 15.0, ratio.round() - ratio)
    by_out = 2 * ratio.round().clamp_max(15) * 0.1 / len(x)
    assert gradients[0] == pytest.approx(float((by_out * by_step).sum()) / math.sqrt(3 * 5 * 15), rel=1e-4)


@pytest.mark.parametrize(("estimator", "name"), [(LSQ(), "step"), (LSQ(Uniform()), "step"), (PACT(), "clip")])
def test_a_learned_number_below_its_floor_has_the_gradient_of_the_floor(estimator, name):
    """A clamp's own gradient is 0 there, and the layer would never come back."""
    kind = Kind(2, signed=False, weights=False)
    x, found = torch.rand(4, 3) + 0.5, {}
    for value in (-0.01, 1e-8):
        number = torch.nn.Parameter(torch.tensor([value]))
        out = estimator.apply(x, kind, {name: number})
        out.sum().backward()
        found[value] = out, number.grad
    assert torch.equal(found[-0.01][0], found[1e-8][0])
    assert torch.equal(found[-0.01][1], found[1e-8][1])
    assert found[-0.01][1].item() > 0


def test_lsq_begins_as_published():
    x = torch.randn(16, 8)
    assert begun(LSQ(Uniform()), x, WEIGHTS)["step"].item() == pytest.approx(2 * float(x.abs().mean()) / math.sqrt(3))
    kind = Kind(4, signed=False, weights=False)
    assert begun(LSQ(), x.abs(), kind)["step"].item() == pytest.approx(2 * float(x.abs().mean()) / math.sqrt(15))


def test_a_step_of_each_filter_is_the_layers_of_one():
    x = torch.randn(3, 8)
    each = begun(LSQ(Uniform(per_channel=True)), x, WEIGHTS)
    out = LSQ(Uniform(per_channel=True)).apply(x, WEIGHTS, each)
    out.sum().backward()
    for i in range(3):
        alone = begun(LSQ(Uniform()), x[i : i + 1], WEIGHTS)
        mine = LSQ(Uniform()).apply(x[i : i + 1], WEIGHTS, alone)
        mine.sum().backward()
        assert torch.equal(out[i], mine[0])
        assert each["step"].grad[i].item() == pytest.approx(alone["step"].grad.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("signed", [False, True])
def test_lsq_outside_its_range_by_finite_differences(signed):
    """Outside, x_q = low or high times the step: the derivative is that number."""
    kind = Kind(3, signed=signed)
    x, step = torch.tensor([[100.0, -100.0]]), 0.5
    out = [LSQ(Uniform()).apply(x, kind, {"step": torch.tensor([step + d])}) for d in (1e-3, -1e-3)]
    numeric = (out[0] - out[1]) / 2e-3
    for i in range(2):
        memory = {"step": torch.nn.Parameter(torch.tensor([step]))}
        LSQ(Uniform()).apply(x, kind, memory)[0, i].backward()
        assert memory["step"].grad.item() * math.sqrt(2 * kind.high) == pytest.approx(float(numeric[0, i]), rel=1e-3)


def test_pact_by_hand():
    """Multiples of 3/3 in [0, 3]: the clip sees what lies at or above it, x what lies between."""
    x = torch.tensor([-1.0, 0.4, 0.6, 2.9, 3.0, 8.0], requires_grad=True)
    memory = {"clip": torch.nn.Parameter(torch.tensor([3.0]))}
    out = PACT().apply(x, INPUTS, memory)
    assert torch.equal(out, torch.tensor([0.0, 0.0, 1.0, 3.0, 3.0, 3.0]))
    out.backward(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    assert torch.equal(x.grad, torch.tensor([0.0, 2.0, 4.0, 8.0, 0.0, 0.0]))
    assert memory["clip"].grad.item() == 48


def test_pact_of_numbers_with_signs():
    kind = Kind(3, signed=True, weights=False)
    x = torch.tensor([-9.0, -1.2, 1.2, 9.0], requires_grad=True)
    memory = {"clip": torch.nn.Parameter(torch.tensor([3.0]))}
    out = PACT().apply(x, kind, memory)
    assert torch.equal(out, torch.tensor([-3.0, -1.0, 1.0, 3.0]))
    out.backward(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    assert torch.equal(x.grad, torch.tensor([0.0, 2.0, 4.0, 0.0]))
    assert memory["clip"].grad.item() == 8 - 1


def test_pact_begins_at_the_clip_of_least_error():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).relu()
    kind = Kind(2, signed=False, weights=False)
    found = begun(PACT(), x, kind)["clip"]

    def error(clip):
        return float((PACT().apply(x, kind, {"clip": clip.detach()}) - x).square().mean())

    assert all(error(found) <= error(x.max().view(1) * i / 64) + 1e-7 for i in range(1, 65))


def test_gates_to_levels():
    """(1,1,0) of 3 bits: the means of four neighbouring pairs; of Kronecker products the same, taken literally."""
    q = torch.tensor([0.0, 2, 10, 20, 40, 60, 100, 300])
    assert mixed(q, torch.tensor([1.0, 1, 0]))[::2].tolist() == [1.0, 15.0, 50.0, 200.0]
    for gates in ((1.0, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)):
        u = torch.ones(1, 1)
        for gate in gates:
            u = torch.kron(u, gate * torch.eye(2) + (1 - gate) * torch.ones(2, 2))
        z = u.sum() / 8
        torch.testing.assert_close(mixed(q, torch.tensor(gates, dtype=torch.float)), u.T @ q / z)


def test_unsorted_gates_would_not_be_monotone():
    q = torch.arange(8.0)
    levels = mixed(q, torch.tensor([0.0, 1, 1]))
    assert (levels.diff() < 0).any()
    sorted_levels = mixed(q, open_gates(torch.tensor([-0.5, 0.5, 0.5])))
    assert (sorted_levels.diff() >= 0).all()


def test_gates_see_their_gradient_within_one():
    numbers = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    gates = Gate.apply(numbers)
    assert gates.tolist() == [0, 0, 1, 1, 1]
    gates.backward(torch.ones(5))
    assert numbers.grad.tolist() == [0, 1, 1, 1, 0]


def test_two_gates_stay_open():
    assert open_gates(torch.full((8,), -1.0)).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_all_gates_open_and_levels_uniform_is_the_uniform_quantiser():
    """Ties left out: halfway between two values DDQ takes the lower, rounding the even one."""
    x = torch.rand(5000, generator=torch.Generator().manual_seed(0)) * 3
    kind = Kind(4, signed=False, weights=False, learned=True)
    estimator = DDQ(max_bits=4)
    memory = begun(estimator, x, kind)
    step = float(x.max()) / 15
    expected = (x / step).round().clamp(0, 15) * step
    off_ties = ((x / step) % 1 - 0.5).abs() > 1e-4
    out = estimator.apply(x, kind, memory)
    torch.testing.assert_close(out[off_ties], expected[off_ties], atol=1e-5, rtol=1e-5)


def test_levels_and_x_see_their_gradients():
    """A level's gradient is the sum over the elements that took it, times sqrt(levels / elements)."""
    estimator = DDQ(Levels(2), correction=0.0)
    x = torch.tensor([-5.0, -0.9, 0.2, 0.4, 5.0], requires_grad=True)
    levels = torch.nn.Parameter(torch.tensor([-1.0, 0.0, 0.5, 2.0]))
    out = estimator.apply(x, Kind(2), {"levels": levels})
    assert torch.equal(out, torch.tensor([-1.0, -1.0, 0.0, 0.5, 2.0]))
    out.backward(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]))
    assert torch.equal(x.grad, torch.tensor([0.0, 2.0, 4.0, 8.0, 0.0]))
    torch.testing.assert_close(levels.grad, torch.tensor([3.0, 4.0, 8.0, 16.0]) * math.sqrt(4 / 5))


def test_fewer_bits_share_the_gradient_of_a_mean():
    estimator = DDQ(Levels(3), correction=0.0)
    levels = torch.nn.Parameter(torch.tensor([0.0, 2, 10, 20, 40, 60, 100, 300]))
    x = torch.tensor([1.0, 14.0, 210.0])
    out = estimator.apply(x, Kind(2), {"levels": levels})
    assert out.tolist() == [1.0, 15.0, 200.0]
    out.backward(torch.tensor([6.0, 12.0, 24.0]))
    expected = torch.tensor([3.0, 3, 6, 6, 0, 0, 12, 12]) * math.sqrt(4 / 3)
    torch.testing.assert_close(levels.grad, expected)


def test_gates_against_finite_differences_of_the_mixture():
    q, gradient = torch.randn(8, dtype=torch.double).sort().values, torch.randn(8, dtype=torch.double)
    gates = torch.tensor([1.0, 1.0, 0.0], dtype=torch.double, requires_grad=True)
    (mixed(q, gates) * gradient).sum().backward()
    for i in range(3):
        nudge = torch.zeros(3, dtype=torch.double)
        nudge[i] = 1e-6
        with torch.no_grad():
            numeric = ((mixed(q, gates + nudge) - mixed(q, gates - nudge)) * gradient).sum() / 2e-6
        assert gates.grad[i].item() == pytest.approx(float(numeric), rel=1e-6, abs=1e-8)


def test_the_correction_moves_levels_towards_what_took_them_and_leaves_x_alone():
    x = torch.tensor([0.3, 0.3, 0.3], requires_grad=True)
    kind = Kind(2, signed=False, weights=False)
    found = {}
    for correction in (0.0, 0.5):
        levels = torch.nn.Parameter(torch.tensor([0.0, 0.2, 0.6, 1.0]))
        DDQ(max_bits=2, correction=correction).apply(x, kind, {"levels": levels}).sum().backward()
        found[correction] = levels.grad
    difference = found[0.5] - found[0.0]
    assert difference[1].item() == pytest.approx(3 * 0.5 * (0.2 - 0.3) * math.sqrt(4 / 3), rel=1e-5)
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_of_weights_the_correction_is_added_once_a_step():
    x = torch.nn.Parameter(torch.tensor([[0.3, 0.3]]))
    estimator = DDQ(Levels(2), correction=0.5)
    memory = {"levels": torch.nn.Parameter(torch.tensor([0.0, 0.2, 0.6, 1.0]))}
    estimator.apply(x, Kind(2), memory).backward(torch.zeros(1, 2))
    assert not memory["levels"].grad.any()
    estimator.before_step(x, Kind(2), memory)
    assert memory["levels"].grad[1].item() == pytest.approx(2 * 0.5 * (0.2 - 0.3) * math.sqrt(2), rel=1e-5)
    assert x.grad is None or not x.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("number", [-1e-3, 0.0, 2e-8, 5e-6])
@pytest.mark.parametrize("estimator", [PACT(), LSQ()])
def test_a_step_that_half_precision_cannot_hold_gives_numbers(estimator, number, dtype):
    x, kind = torch.tensor([0.0, 0.003, 0.01], dtype=dtype), Kind(8, signed=False, weights=False)
    memory = estimator.memory(x, kind)
    for tensor in memory.values():
        tensor.data.fill_(number)
    assert estimator.apply(x, kind, memory).isfinite().all()
    assert estimator.fixed(kind, memory)(x).isfinite().all()
    estimator.start(torch.zeros_like(x), kind, memory)
    assert estimator.apply(x, kind, memory).isfinite().all()
