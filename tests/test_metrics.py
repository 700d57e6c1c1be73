import pytest
import torch
from torch import nn

from midstate import metrics
from midstate.data import Split
from midstate.sparsity import weight_layers


class Answers(nn.Module):
    """A classifier whose logits are its input."""

    def forward(self, x):
        return x.flatten(1)


def test_accuracy_and_loss_by_hand():
    logits = torch.eye(6)[[0, 1, 2, 3]] * 5 + torch.arange(6.0) * 0.1
    labels = torch.tensor([0, 1, 5, 0])  # right, right, second choice, last choice
    result = metrics.evaluate(Answers(), Split(logits.view(4, 6, 1, 1), labels))
    assert result["top1"] == 50
    assert result["top5"] == 75
    assert result["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))


def test_evaluation_in_parts_equals_evaluation_at_once():
    count = 2 * metrics.EVAL_BATCH + 7
    split = Split(torch.randn(count, 10, 1, 1), torch.randint(0, 10, (count,)))
    right = (split.images.flatten(1).argmax(1) == split.labels).double().mean()
    assert metrics.evaluate(Answers(), split)["top1"] == pytest.approx(100 * float(right))


def test_evaluation_leaves_the_mode_and_the_model_as_they_were():
    model = nn.Sequential(nn.BatchNorm2d(3), Answers())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    metrics.evaluate(model, Split(torch.randn(8, 3, 1, 1), torch.zeros(8, dtype=torch.int64)))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_counts_by_hand():
    second = nn.Conv2d(4, 4, 3, groups=2, stride=2, padding=1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), second, nn.Flatten(), nn.Linear(16, 5))
    uses = metrics.weight_uses(model, torch.zeros(3, 2, 4, 4))
    assert uses == {"0": 16, "1": 4, "3": 1}
    second.weight.data[:, 0] = 0  # half of 72 weights
    counted = metrics.count(model, [weight_layers(model)[1]], uses)
    assert counted["params_total"] == 72 + 4 + 72 + 4 + 80 + 5
    assert counted["params_prunable"] == 72
    assert counted["params_nonzero"] == counted["params_total"] - 36
    assert counted["sparsity"] == 0.5
    assert counted["sparsity_total"] == 36 / counted["params_total"]
    assert counted["macs_dense"] == 72 * 16 + 72 * 4 + 80
    assert counted["macs_sparse"] == 72 * 16 + 36 * 4 + 80


def test_attention_is_counted_with_both_projections():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    uses = metrics.weight_uses(layer, torch.zeros(2, 5, 8))
    assert uses == {"self_attn.in_proj_weight": 5, "self_attn.out_proj": 5, "linear1": 5, "linear2": 5}
