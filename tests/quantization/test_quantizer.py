"""The quantizer in a loop of one's own: bits, masks, folding, state."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from midstate.quantization import (
    DDQ,
    LSQ,
    PACT,
    STE,
    BitScheme,
    Gates,
    Jump,
    KMeans,
    Levels,
    Quantization,
    Quantizer,
    Scope,
    StepBits,
    Uniform,
    load_input_quantisers,
)
from midstate.quantization.report import size_in_bytes, stored_and_index
from midstate.sparsity import (
    L1,
    NM,
    Budget,
    Direct,
    Hard,
    Method,
    Pruner,
    RandomShares,
    Reversed,
    Sample,
    Schedule,
    Update,
)
from midstate.sparsity import Scope as PrunerScope
from midstate.sparsity import Uniform as Same

STEPS = 12
AT_ONCE = Schedule("one_shot", 0.0, 0.0)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def sample():
    generator = torch.Generator().manual_seed(1)
    return Sample(torch.randn(64, 1, 6, 6, generator=generator), torch.randint(4, (64,), generator=generator))


def method(estimator=None, **options):
    given = {"allocation": Same(), "path": Jump(), "activation": PACT(), "activation_bits": 4, "weight_bits": 3}
    return Quantization(scope=Scope(), estimator=estimator or STE(Uniform()), **{**given, **options})


def attached(model, which, schedule=AT_ONCE):
    return Quantizer(
        model, which, schedule, 4, STEPS, classifier="11", sample=sample(), uses={"0": 36, "3": 36, "6": 36}
    )


def trained(model, quantizer, pruner=None, steps=STEPS, begin=0, optimizer=None):
    images, labels = sample().images, sample().labels
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.05, 0.9)
    if begin == 0:
        quantizer.own_groups(optimizer)
    model.train()
    for step in range(begin, steps):
        if pruner:
            pruner.tick(step)
        quantizer.tick(step)
        optimizer.zero_grad()
        quantizer.weighed(F.cross_entropy(model(images), labels)).backward()
        quantizer.before_step(optimizer, step)
        if pruner:
            pruner.before_step(optimizer, step)
        optimizer.step()
        if pruner:
            pruner.after_step(optimizer)
    return optimizer


ESTIMATORS = {
    "uniform": (STE(Uniform()), PACT()),
    "per channel": (STE(Uniform(per_channel=True)), LSQ()),
    "kmeans": (STE(KMeans()), LSQ()),
    "lsq": (LSQ(Uniform()), LSQ()),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_finished_network_is_plain_and_obeys(name):
    estimator, activation = ESTIMATORS[name]
    model = network()
    quantizer = attached(model, method(estimator, activation=activation))
    trained(model, quantizer)
    model.eval()
    with torch.no_grad():
        before = model(sample().images)
        quantizer.finalise()
        assert torch.equal(model(sample().images), before)
    assert quantizer.verify()
    assert {name.rpartition(".")[2] for name, _ in model.named_parameters()} == {"weight", "bias"}
    for layer, bits in ((model[3], 3), (model[6], 3), (model[0], 8), (model[11], 8)):
        rows = layer.weight.flatten(1) if name == "per channel" else [layer.weight]
        assert all(len(row.unique()) <= 2**bits for row in rows)
    hidden = model[3].input_quantizer
    assert len(hidden(torch.linspace(-3, 30, 5000)).unique()) <= 16


def test_ddq_learns_bits_under_its_budget():
    model = network()
    gates = Gates(exponent=-1.0, gate_lr=5.0, gates_from="2it")
    quantizer = attached(model, method(DDQ(Levels(4)), allocation=gates, weight_bits=3))
    trained(model, quantizer, steps=2)
    assert [each.weight.bits for each in quantizer.layers] == [8, 4, 4, 8]  # no gate moves yet
    trained(model, quantizer, begin=2, optimizer=grouped(model, quantizer))
    quantizer.finalise()
    found = quantizer.report()
    free = [found["layers"][name][0] * each.hidden.numel() for name, each in zip("36", quantizer.free, strict=True)]
    assert sum(free) <= 3 * sum(each.hidden.numel() for each in quantizer.free)
    assert quantizer.verify()


def grouped(model, quantizer):
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    quantizer.own_groups(optimizer)
    return optimizer


def test_a_file_alone_answers_as_the_finished_network():
    for activation in (PACT(), DDQ(max_bits=4)):
        model = network()
        quantizer = attached(model, method(activation=activation))
        trained(model, quantizer)
        quantizer.finalise()
        state = copy.deepcopy(model.state_dict())
        fresh = network(seed=5)
        load_input_quantisers(fresh, state)
        fresh.load_state_dict(state)
        with torch.no_grad():
            assert torch.equal(fresh.eval()(sample().images), model.eval()(sample().images))


def test_training_from_a_quantised_file_takes_its_input_quantisers_away():
    model = network()
    quantizer = attached(model, method())
    trained(model, quantizer)
    quantizer.finalise()
    again = attached(model, method(activation_bits=None))
    assert not any(hasattr(module, "input_quantizer") for module in model)
    trained(model, again)
    again.finalise()
    assert again.verify()


@pytest.mark.parametrize("estimator", [STE(Uniform()), STE(KMeans()), LSQ(Uniform())])
def test_masks_come_after_quantisation(estimator):
    """A pruned weight is 0 although a codebook may have no 0; kept ones are on the grid."""
    model = network()
    pruned = Method(PrunerScope(), NM(2, 4), L1(), Same(), Direct(), Update(), Hard())
    pruner = Pruner(model, pruned, AT_ONCE, 4, STEPS, classifier="11")
    quantizer = attached(model, method(estimator))
    trained(model, quantizer, pruner)
    model.eval()
    before = model(sample().images)
    quantizer.finalise()
    pruner.finalise()
    assert torch.equal(model(sample().images), before)
    assert quantizer.verify()
    assert pruner.verify()
    for layer in (model[3], model[6]):
        values = layer.weight[layer.weight != 0].unique()
        assert 0.4 < (layer.weight == 0).float().mean() < 0.9
        assert len(values) <= 8


def test_what_was_no_value_of_the_grid_is_found():
    model = network()
    quantizer = attached(model, method())
    trained(model, quantizer)
    quantizer.finalise()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = model[3].weight.max() * 0.77
    assert not quantizer.verify()


def test_bits_step_down_and_each_tensor_stops_at_its_own():
    path = StepBits(8)
    assert path.num_jumps(3) == 6
    states = [path.bits_at(3, 3, k / 6) for k in range(7)]
    assert states == [None, 8, 7, 6, 5, 4, 3]
    assert [path.bits_at(5, 3, k / 6) for k in range(7)] == [None, 8, 7, 6, 5, 5, 5]
    assert [Jump().bits_at(3, 3, p) for p in (0, 0.01, 1)] == [None, 3, 3]


def test_the_schedule_moves_the_bits():
    model = network()
    quantizer = attached(model, method(path=StepBits(8)), Schedule("linear", 0.0, 1.0))
    assert len(quantizer.states()) == 7
    assert quantizer.states()[:2] == ["32 bits", "W8 A8"]
    seen = []
    images = sample().images
    for step in range(STEPS + 1):
        quantizer.tick(step)
        quantizer.refresh(step)
        model(images)
        seen.append(quantizer.layers[1].bits)
    assert seen[0] == (None, None)
    assert seen[-1] == (3, 4)
    weights = [bits[0] for bits in seen[1:] if bits[0] is not None]
    assert weights == sorted(weights, reverse=True)


def test_state_goes_on_to_the_same_bits():
    whole, parts = network(), network()

    def make(model):
        return attached(model, method(LSQ(Uniform()), path=StepBits(6)), Schedule("linear", 0.0, 0.5))

    first = make(whole)
    trained(whole, first)
    begun = make(parts)
    optimizer = trained(parts, begun, steps=5)
    saved = copy.deepcopy((parts.state_dict(), begun.state_dict(), optimizer.state_dict()))
    resumed = network(seed=9)
    again = make(resumed)
    optimizer = grouped(resumed, again)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[2])
    trained(resumed, again, begin=5, optimizer=optimizer)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_probing_leaves_everything_as_it_was():
    model = network()
    quantizer = attached(model, method(LSQ(Uniform())))
    trained(model, quantizer, steps=3)
    before = copy.deepcopy(model.state_dict())
    bits = [each.bits for each in quantizer.layers]
    with quantizer.trial():
        quantizer.put([(2, 2)] * len(quantizer.layers))
        model.eval()(sample().images)
        assert [each.bits for each in quantizer.layers] == [(2, 2)] * 4
    assert [each.bits for each in quantizer.layers] == bits
    for a, b in zip(before.values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


BY_SIZE = [
    RandomShares("size"),
    Reversed("size"),
    *(Budget(score, budget="size") for score in ("weight_error", "sensitivity", "hessian", "erk")),
]


@pytest.mark.parametrize("allocation", BY_SIZE)
def test_allocations_of_pruning_give_out_bits(allocation):
    model = network()
    quantizer = attached(model, method(allocation=allocation, target=0.15))
    trained(model, quantizer)
    quantizer.finalise()
    assert quantizer.verify()
    sizes = {"0": 72, "3": 1152, "6": 2304, "11": 64}
    bits = quantizer.report()["layers"]
    assert (bits["0"], bits["11"]) == ([8, 8], [8, 8])
    assert sum(sizes[name] * bits[name][0] for name in sizes) <= 0.15 * 32 * sum(sizes.values())


def test_pairs_are_chosen_where_inputs_cost():
    model = network()
    budget = Budget("sensitivity", levels=(2, 4, 8), budget="bitops")
    quantizer = attached(model, method(allocation=budget, budget="bitops", target=0.3, levels=(2, 4, 8)))
    trained(model, quantizer)
    quantizer.finalise()
    report = quantizer.report()
    assert report["bitops_share"] <= 0.3
    assert {bits for name in "36" for bits in report["layers"][name]} <= {2, 4, 8}


class Attending(nn.Module):
    """Attention, whose projections have inputs that are not quantised, between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.attention, self.last = nn.Linear(6, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 4)

    def forward(self, images):
        x = self.first(images[:, 0].movedim(1, 0))
        return self.last(self.attention(x, x, x)[0].mean(0))


@pytest.mark.parametrize("scope", [Scope(None, None), Scope(None, 8)])
def test_inputs_that_are_not_quantised_cost_32_bits(scope):
    torch.manual_seed(0)
    budget = Budget("sensitivity", budget="bitops")
    which = Quantization(
        scope=scope, estimator=STE(Uniform()), allocation=budget, path=Jump(), activation=PACT(), activation_bits=8,
        budget="bitops", target=0.9,
    )  # fmt: skip
    quantizer = Quantizer(
        Attending(), which, AT_ONCE, 4, STEPS, classifier=("last", "attention.in_proj_weight"), uses={"first": 100},
        sample=sample(),
    )  # fmt: skip
    quantizer.refresh(STEPS)
    quantizer.finalise()
    assert quantizer.report()["bitops_share"] <= 0.9


class ByName(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        for layer in self.model:
            x = layer(input=x)
        return x


def test_inputs_are_quantised_by_name_as_by_position():
    model, other = network(), network()
    attached(model, method()).refresh(STEPS)
    by_name = Quantizer(ByName(other), method(), AT_ONCE, 4, STEPS, classifier="model.11", sample=sample())
    by_name.refresh(STEPS)
    assert torch.equal(by_name._network.model(sample().images), model(sample().images))
    by_name.finalise()
    assert by_name._network.model(sample().images).isfinite().all()


def test_bits_of_a_file_that_inputs_cannot_have_are_refused(tmp_path):
    file = tmp_path / "scheme.json"
    file.write_text(json.dumps({"bits": {"3": [4, 8], "6": [4, 4]}}))
    inputs = DDQ(max_bits=4)
    quantizer = attached(network(), method(allocation=BitScheme(str(file))))
    quantizer.tick(0)
    assert quantizer.levels is not None
    with pytest.raises(ValueError, match="scheme bits of 3's inputs=8: must be a whole number from 2 to 4"):
        attached(network(), method(allocation=BitScheme(str(file)), activation=inputs)).tick(0)


def test_a_file_of_other_layers_is_refused(tmp_path):
    file = tmp_path / "scheme.json"
    file.write_text(json.dumps({"bits": {"0": 4, "3": 4, "6": [4, None]}}))
    with pytest.raises(ValueError, match=r"gives bits to \['0'\], which have fixed bits"):
        attached(network(), method(allocation=BitScheme(str(file))))


def test_what_was_never_quantised_cannot_be_finished():
    quantizer = attached(network(), method())
    with pytest.raises(ValueError, match=r"finalise: nothing was ever quantised; call quantizer\.tick"):
        quantizer.finalise()


def test_layers_that_stay_dense_need_no_indices():
    pattern = NM(2, 16)
    assert stored_and_index(pattern, torch.Size((4, 32, 3, 3)), 2) == (144, 144 * 4)
    assert stored_and_index(pattern, torch.Size((4, 32, 3, 3)), 16) == (1152, 0)


def test_pruned_layers_that_are_not_quantised_store_no_zeros():
    model = network()
    pruner = Pruner(
        model, Method(PrunerScope(), NM(2, 4), L1(), Same(), Direct(), Update(), Hard()), AT_ONCE, 4, STEPS,
        classifier="11",
    )  # fmt: skip
    which = Quantization(
        scope=Scope(exclude=("3",)), estimator=STE(Uniform()), allocation=Same(), path=Jump(), weight_bits=4
    )
    quantizer = attached(model, which)
    for each in (pruner, quantizer):
        each.refresh(STEPS)
    quantizer.finalise()
    pruner.finalise()
    stored = {name: stored_and_index(NM(2, 4), model[int(name)].weight.shape, 2) for name in "36"}
    found = size_in_bytes(model, quantizer.layers, stored)
    others = sum(p.numel() for p in model.parameters()) - sum(model[i].weight.numel() for i in (0, 3, 6, 11))
    steps = 3 * 32
    values = 32 * others + 8 * (72 + 64) + 32 * 1152 // 2 + 4 * 2304 // 2 + steps
    assert (found["values"], found["indices"]) == (values // 8, 2 * (1152 + 2304) // 2 // 8)


def test_decay_and_rate_of_what_is_learned():
    model = network()
    gates = Gates(gate_lr=3.0)
    quantizer = attached(model, method(DDQ(Levels(4)), allocation=gates, weight_bits=3, activation_decay=0.01))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.5)
    quantizer.own_groups(optimizer)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == len(list(model.parameters()))
    assert groups[id(quantizer.layers[1].weight.levels)]["weight_decay"] == 0
    assert groups[id(quantizer.layers[1].weight.gates)]["lr_scale"] == 3
    assert groups[id(quantizer.layers[1].input.clip)]["weight_decay"] == 0.01
    assert groups[id(quantizer.layers[1].hidden)]["weight_decay"] == 0.5


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("weight_bits=9", {"weight_bits": 9}),
        ("weight_bits=1", {"weight_bits": 1}),
        ("activation_bits=1", {"activation_bits": 1}),
        ("activation", {"activation": None}),
        ("finds the bits itself", {"estimator": DDQ(Levels(4)), "weight_bits": 3}),
        ("has no gates", {"allocation": Gates()}),
        ("grid=levels", {"estimator": STE(Levels(4))}),
        ("grid=kmeans", {"estimator": LSQ(KMeans())}),
        ("target=0.1", {"target": 0.1}),
        ("target=0", {"allocation": RandomShares("size"), "target": 0.0}),
        ("budget='sizes'", {"allocation": RandomShares("size"), "budget": "sizes"}),
        ("needs a table", {"allocation": RandomShares("latency"), "budget": "latency"}),
        ("levels=9", {"levels": (2, 9)}),
        ("every='0it'", {"every": "0it"}),
        ("path_bits=8: activation=DDQ has 4 bits at most", {"activation": DDQ(max_bits=4), "path": StepBits(8)}),
        ("activation_bits=5", {"activation": DDQ(max_bits=4), "activation_bits": 5}),
        (
            "score='weight_error': knows weights only, and with budget='bitops' bits of inputs are chosen, too",
            {"allocation": Budget("weight_error", budget="bitops"), "budget": "bitops"},
        ),
    ],
)
def test_refused_products(message, options):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        method(options.pop("estimator", None), **options)


def test_refused_networks_and_budgets():
    with pytest.raises(ValueError, match="the lowest levels cost"):
        attached(network(), method(allocation=Budget("erk", budget="size"), target=0.01))
    with pytest.raises(ValueError, match="matches no layer"):
        Quantizer(
            network(),
            Quantization(scope=Scope(exclude=("x.*",)), estimator=STE(Uniform()), allocation=Same(), path=Jump()),
            AT_ONCE,
            4,
            12,
        )
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    with pytest.raises(ValueError, match="shares its weight"):
        attached(tied, method())
    with pytest.raises(ValueError, match="give the quantizer a sample"):
        Quantizer(network(), method(), AT_ONCE, 4, 12)
