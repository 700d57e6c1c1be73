"""What no weight of zero has cut away is not reported as gone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from midstate.compaction import count, weight_uses
from midstate.compaction.counting import alive_inputs, fed_by
from midstate.sparsity import weight_layers


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.a, self.b, self.head, self.call = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4), call

    def forward(self, x):
        return self.head(torch.relu(self.b(self.call(self.a(x)))).mean((2, 3)))


KEPT = {  # the dye stays in its channels
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where, of numbers": lambda x: torch.where(x > 0, 1.0, 0.0),
    "product with a comparison": lambda x: x * (x > 0),
    "cast": lambda x: (x > 0).float(),
    "cast of a view": lambda x: (x > 0).flatten(2).view(x.shape).to(x.dtype),
    "both": lambda x: ((x > 0) & ~(x > 1)).to(x),
    "sign": torch.sign,
    "sign in place": lambda x: x.clone().sign_(),
    "nan_to_num": torch.nan_to_num,
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "clamp": lambda x: x.clamp(0, 6),
    "fmax": lambda x: torch.fmax(x, torch.zeros(())),
}
HIDDEN = {  # it is lost, or spreads
    "rank": lambda x: x.argsort(1).to(x),
    "rounds": lambda x: torch.from_numpy((x.numpy() > 0).astype("float32")),
}


def counted(model, shape=(3, 16, 16)):
    layers, uses = weight_layers(model), weight_uses(model, torch.zeros(2, *shape))
    return count(model, layers, [1.0] * len(layers), False, uses, shape)


@pytest.mark.parametrize("way", KEPT | HIDDEN)
def test_a_network_that_nobody_pruned_is_whole(way):
    torch.manual_seed(0)  # of few weights a whole channel may be negative everywhere
    found = counted(Net((KEPT | HIDDEN)[way]))
    assert found["macs_sparse"] == found["macs_dense"]
    assert found["params_sparse"] == found["params_nonzero"] == found["params_total"]


@pytest.mark.parametrize("way", KEPT)
def test_what_was_pruned_before_a_comparison_still_counts(way):
    model = Net(KEPT[way])
    model.a.weight.data[2] = 0
    model.b.weight.data[5] = 0
    alive = alive_inputs(model, (3, 16, 16))
    assert (~alive["b"]).nonzero().flatten().tolist() == [2]
    assert (~alive["head"]).nonzero().flatten().tolist() == [5]


def test_what_is_hidden_hides_nothing_behind_it():
    model = Net(HIDDEN["rank"])
    model.b.weight.data[5] = 0
    assert (~alive_inputs(model, (3, 16, 16))["head"]).nonzero().flatten().tolist() == [5]


def test_a_constant_choice_is_no_comparison():
    chosen = torch.arange(8).view(1, 8, 1, 1) != 3
    model = Net(lambda x: torch.where(chosen, x, 0.5))
    model.a.weight.data[2] = 0
    assert (~alive_inputs(model, (3, 16, 16))["b"]).nonzero().flatten().tolist() == [2]  # 3 was never pruned


class Positions(nn.Module):
    """A table of positions goes through layers of its own before it is added."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
        self.table, self.first, self.second = nn.Parameter(torch.randn(16, 2)), nn.Linear(2, 5), nn.Linear(5, 4)

    def forward(self, x):
        positions = self.second(F.relu(self.first(self.table)))
        return self.head((self.stem(x).flatten(2).mT + positions).mean(1))


def test_layers_that_read_positions_are_not_gone():
    model = Positions()
    found = counted(model, (3, 4, 4))
    assert found["macs_sparse"] == found["macs_dense"]
    assert found["params_sparse"] == found["params_nonzero"]
    assert not fed_by(model, weight_layers(model)[:1], (3, 4, 4))  # the head reads positions, too
    model.stem.weight.data[1] = 0  # what is added there is a constant
    assert alive_inputs(model, (3, 4, 4))["head"].tolist() == [True, False, True, True]
