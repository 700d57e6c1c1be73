import pytest
import torch
from torch import nn

from midstate.data import Split
from midstate.engine.evaluate import EVAL_BATCH, evaluate


class Answers(nn.Module):
    """A classifier whose logits are its input."""

    def forward(self, x):
        return x.flatten(1)


def test_accuracy_and_loss_by_hand():
    logits = torch.eye(6)[[0, 1, 2, 3]] * 5 + torch.arange(6.0) * 0.1
    labels = torch.tensor([0, 1, 5, 0])  # right, right, second choice, last choice
    result = evaluate(Answers(), Split(logits.view(4, 6, 1, 1), labels))
    assert result["top1"] == 50
    assert result["top5"] == 75
    assert result["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))


def test_evaluation_in_parts_equals_evaluation_at_once():
    count = 2 * EVAL_BATCH + 7
    split = Split(torch.randn(count, 10, 1, 1), torch.randint(0, 10, (count,)))
    right = (split.images.flatten(1).argmax(1) == split.labels).double().mean()
    assert evaluate(Answers(), split)["top1"] == pytest.approx(100 * float(right))


def test_evaluation_leaves_the_mode_and_the_model_as_they_were():
    model = nn.Sequential(nn.BatchNorm2d(3), Answers())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, Split(torch.randn(8, 3, 1, 1), torch.zeros(8, dtype=torch.int64)))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
