"""The pass in training mode that is made before a run begins."""

import pytest
import torch
from conftest import composed
from torch import nn

from midstate.common.errors import ConfigError
from midstate.models import Torchvision, try_training
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session


def test_a_trial_leaves_no_trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(16, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn_from = torch.get_rng_state()
    try_training(model, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)), 5)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert torch.get_rng_state().equal(drawn_from)
    assert model.training


class Pair(nn.Linear):
    """Gives logits twice in training, as networks with auxiliary heads do."""

    def forward(self, x):
        logits = super().forward(x.flatten(1))
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Pair(12, 5), r"in training the model gives tuple, where logits \(2, 5\) are needed"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 6)), r"gives \(2, 6\), where logits \(2, 5\)"),
        (nn.Identity(), r"gives \(2, 3, 2, 2\), where"),
        (nn.Linear(7, 5), "RuntimeError: .*mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_what_gives_no_logits_in_training_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        try_training(model, torch.zeros(2, 3, 2, 2), 5)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 96)])
def test_networks_with_auxiliary_heads_are_built_without(name, size):
    model = Torchvision(name).create(3, 5)
    try_training(model, torch.randn(2, 3, size, size), 5)
    assert not [each for each, _ in model.named_modules() if each.startswith(("aux", "Aux"))]


def test_a_model_that_does_not_fit_is_named_with_the_images_size():
    with pytest.raises(ConfigError, match=r"^model.name=levit_128s, data.size=16: RuntimeError: .*\[8, 196\]"):
        build_session(Plan.of(composed("data=fake", "data.size=16", "model=timm", "model.name=levit_128s",
                                 "model.arguments=null", "pruner=dense")))  # fmt: skip
