"""Tensors that the classes of layers do not bring into scope, and what stays dense."""

import logging

import pytest
import timm
import torch
from torch import nn

from midstate.models import classifier_names
from midstate.sparsity import (
    L1,
    NM,
    Direct,
    Filter,
    Hard,
    Method,
    Pruner,
    Schedule,
    Scope,
    Uniform,
    Update,
    Wanda,
    Weight,
    verify_nm,
    weight_layers,
)


class Conv1D(nn.Module):
    """As Hugging Face has it: a linear layer whose weight is (in, out)."""

    def __init__(self, size_in, size_out):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(size_in, size_out)), nn.Parameter(torch.zeros(size_out))

    def forward(self, x):
        return x @ self.weight + self.bias


class Words(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(50, 16), kind(16, 12, batch_first=True)
        self.conv1d, self.head = Conv1D(12, 8), nn.Linear(8, 2)
        self.position = nn.Parameter(torch.zeros(1, 5, 16))

    def forward(self, x):
        return self.head(self.conv1d(self.rnn(self.embedding(x) + self.position)[0][:, -1]))


def method(pattern, include, criterion=None):
    scope = Scope(skip_first=False, skip_classifier=False, include=include)
    return Method(scope, pattern, criterion or L1(), Uniform(), Direct(), Update(), Hard())


def pruned(model, pattern, include):
    pruner = Pruner(model, method(pattern, include), Schedule("one_shot", 0.0, 1.0), 1, 2)
    pruner.tick(0)
    return pruner


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_really_pruned(kind):
    torch.manual_seed(0)
    model, words = Words(kind).eval(), torch.arange(15).view(3, 5)
    dense = model(words)
    pruner = pruned(model, NM(2, 4), ("rnn.weight_*", "embedding"))
    assert [layer.name for layer in pruner.layers] == ["head", "embedding", "rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    assert len({layer.depth for layer in pruner.layers}) == 4
    masked = model(words)
    model(words).sum().backward()
    gradient = model.rnn.parametrizations.weight_ih_l0.original.grad
    assert torch.equal(gradient != 0, pruner.masks[2] & (gradient != 0))
    pruner.finalise()
    assert pruner.verify()
    assert torch.equal(model(words), masked)
    assert not torch.allclose(masked, dense)
    assert verify_nm(model.rnn.weight_ih_l0, 2, 4)
    with torch.no_grad():
        fresh = kind(16, 12, batch_first=True)
        fresh.load_state_dict(model.rnn.state_dict())
        features = torch.randn(3, 5, 16)
        assert torch.equal(fresh(features)[0], model.rnn(features)[0])


def transposed():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 3, groups=2), Conv1D(16, 8), nn.Linear(8, 4))


@pytest.mark.parametrize(("name", "kind"), [("1", "ConvTranspose2d"), ("2", "Conv1D")])
def test_weights_whose_inputs_are_dim_0_are_taken_without_groups_only(name, kind):
    model = transposed()
    assert [layer.name for layer in method(Weight(0.5), (name,)).scope.resolve(model, None, Weight(0.5))] == [
        *("0", "3"),
        name,
    ]
    for pattern in (NM(2, 4), Filter(0.5)):
        with pytest.raises(ValueError, match=rf"{name}: the weight of {kind} has its inputs in dim 0.*pattern=weight"):
            Scope(include=(name,)).resolve(model, None, pattern)
    pruner = pruned(model, Weight(0.5), (name,))
    pruner.finalise()
    assert (model[int(name)].weight == 0).float().mean() == 0.5


def test_what_cannot_be_pruned_so_is_refused_with_the_reason():
    model = Words()
    with pytest.raises(ValueError, match=r"include=\['lstm'\]: matches no layer of .*'rnn.weight_ih_l0'"):
        Scope(include=("lstm",)).resolve(model, None, NM(2, 4))
    with pytest.raises(ValueError, match="include='rnn': must be a list"):
        Scope(include="rnn")
    with pytest.raises(ValueError, match=r"rows of LSTM's tensor .* are no filters"):
        Scope(include=("rnn.weight_ih_l0",)).resolve(model, None, Filter(0.5))
    with pytest.raises(ValueError, match=r"embedding: what this tensor of Embedding reads is not known"):
        method_of_inputs(model)


def method_of_inputs(model):
    from midstate.sparsity import Sample

    words = torch.arange(15).view(3, 5)
    Pruner(
        model,
        method(NM(2, 4), ("embedding",), Wanda()),
        Schedule("one_shot", 0.0, 1.0),
        1,
        2,
        sample=Sample(words, torch.zeros(3, dtype=torch.long)),
    )


def test_include_overrides_what_is_skipped_but_not_exclude():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    assert [layer.name for layer in Scope(include=("0", "2")).resolve(model, "2", NM(2, 4))] == ["0", "1", "2"]
    assert [layer.name for layer in Scope(include=("*",), exclude=("2",)).resolve(model, "2", None)] == ["0", "1"]


def test_layers_of_unknown_classes_are_named_with_their_share(caplog):
    model = timm.create_model("tf_efficientnet_cc_b0_4e", num_classes=10)
    with caplog.at_level(logging.WARNING):
        Scope().resolve(model, ("classifier",), NM(2, 4))
    known = sum(layer.weight.numel() for layer in weight_layers(model))
    (said,) = caplog.messages
    assert "blocks.4.0.conv_pw (CondConv2d)" in said
    assert "more: 88.8 % of the network's parameters" in said
    assert known < 0.12 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_of_known_networks_nothing_is_said(name, caplog):
    model = timm.create_model(name, num_classes=10)
    with caplog.at_level(logging.WARNING):
        Scope().resolve(model, classifier_names(model), NM(2, 4))
    assert not caplog.messages


def test_what_stays_dense_is_listed_with_the_reason():
    model = nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 3),
            "narrow": nn.Conv2d(6, 8, 3),
            "deep": nn.Conv2d(8, 8, 3, groups=8),
            "wide": nn.Conv2d(8, 16, 1),
            "rnn": nn.LSTM(16, 4),
            "head": nn.Linear(16, 4),
        }
    )
    found = {layer.name: why for layer, why in Scope().left_dense(model, "head", NM(2, 4))}
    assert found == {
        "stem": "first",
        "narrow": "indivisible",
        "deep": "depthwise",
        "head": "classifier",
        "rnn.weight_ih_l0": "unknown",
        "rnn.weight_hh_l0": "unknown",
    }
    padded = Scope(indivisible="pad", include=("rnn.*",)).left_dense(model, "head", NM(2, 4))
    assert [layer.name for layer, _ in padded] == ["stem", "deep", "head"]


def test_what_is_included_can_be_excluded_by_name():
    model = nn.ModuleDict({"rnn": nn.LSTM(8, 8), "f": nn.Linear(8, 8), "c": nn.Linear(8, 8)})
    scope = Scope(skip_first=False, skip_classifier=False, include=("rnn.weight_*",), exclude=("rnn.weight_hh*",))
    assert {layer.name for layer in scope.resolve(model, None, NM(2, 4))} == {"rnn.weight_ih_l0", "f", "c"}
