"""One cut of a trained network: masks by hand, what stays out, and where the weights come from."""

from itertools import combinations

import pytest
import torch
import torchvision
from conftest import ALONE, TINY, composed
from torch import nn
from torch.nn import functional as F

from midstate.common.errors import ConfigError
from midstate.engine.loop import train
from midstate.models import classifier_names
from midstate.runs.parts import build_parts
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.runs.run import run
from midstate.sparsity import NM, Pruner, Scope, verify_nm, weight_layers

SHORT = (*TINY, "trainer.epochs=2", "trainer.probes=false")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Dense runs as they lie under outputs/."""
    directory = tmp_path_factory.mktemp("outputs") / "dense"
    run(composed(*SHORT, "pruner=dense", f"run_dir={directory / 'abc' / 'seed0'}"))
    return directory


def final_weights(directory):
    return torch.load(directory / "checkpoints" / "final.pt", weights_only=True)["model"]


def best_of_six(weight):
    """For each group of four inputs the pair of largest sum of magnitudes, as apex finds it: (O, C, *K)."""
    pairs = torch.zeros(6, 4, dtype=torch.bool)
    for row, pair in enumerate(combinations(range(4), 2)):
        pairs[row, list(pair)] = True
    groups = weight.abs().unflatten(1, (-1, 4)).movedim(2, -1)
    best = pairs[(groups @ pairs.float().T).argmax(-1)]
    return best.movedim(-1, 2).flatten(1, 2)


def test_masks_are_the_best_of_the_six_patterns_and_frozen_from_the_first_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(32, 8))
    parts = build_parts(composed("pruner=asp"))
    by_hand = torch.tensor([[4.0, -3, 2, 1], [1, -5, 0.5, 4], [-1, 2, -3, 4], [0.1, 0.2, 0.4, -0.3]]).flatten()
    model[0].weight.data[0, :, 0, 0] = by_hand
    expected = [best_of_six(model[0].weight.detach()), best_of_six(model[2].weight.detach())]
    pruner = Pruner(model, parts.method, parts.schedule, 3, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    start = [weight.detach().clone() for weight in pruner._weights]
    for step in range(6):
        pruner.tick(step)
        loss = F.cross_entropy(model(torch.randn(4, 16, 4, 4)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        pruner.before_step(optimizer)
        optimizer.step()
        pruner.after_step(optimizer)
    pruner.refresh(6)
    assert all(map(torch.equal, pruner.masks, expected))
    kept = [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert pruner.masks[0][0, :, 0, 0].view(4, 4).int().tolist() == kept
    for weight, first, mask in zip(pruner._weights, start, expected, strict=True):
        assert weight[~mask].equal(first[~mask])
        assert (weight - first)[mask].abs().mean() > 0.01
    pruner.finalise()
    for layer, mask in zip(pruner.layers, expected, strict=True):
        assert layer.weight[~mask].eq(0).all()
        assert layer.weight[mask].ne(0).all()


def test_a_dense_run_is_cut_where_it_stood_and_stays_cut_to_the_end(dense, tmp_path):
    run(composed(*SHORT, "pruner=asp", f"model.checkpoint={dense}", f"run_dir={tmp_path}"))
    before, after = final_weights(dense / "abc" / "seed0"), final_weights(tmp_path)
    names = [name for name, weight in before.items() if weight.dim() > 1 and weight.shape[1] % 16 == 0]
    assert len(names) == 9
    for name in names:
        if name == "classifier.weight":  # ten outputs
            assert after[name].ne(0).all()
        else:
            assert verify_nm(after[name], 2, 4)
            assert torch.equal(after[name] != 0, best_of_six(before[name])), name
            assert not after[name].equal(before[name] * best_of_six(before[name]))


def test_layers_that_hardware_does_not_take_are_left_out():
    parts = build_parts(composed("pruner=asp"))

    def chosen(model):
        scope, pattern = parts.method.scope, parts.method.pattern
        return [layer.name for layer in scope.resolve(model, classifier_names(model), pattern)]

    resnet = torchvision.models.resnet50()
    assert chosen(resnet) == [layer.name for layer in weight_layers(resnet) if layer.name != "conv1"]
    mobilenet = torchvision.models.mobilenet_v2()
    modules = dict(mobilenet.named_modules())
    left_out = [layer.name for layer in weight_layers(mobilenet) if layer.name not in chosen(mobilenet)]
    depthwise = [name for name, module in modules.items() if getattr(module, "groups", 1) > 1]
    assert set(depthwise) < set(left_out)
    # The stem and what reads 24 channels: two blocks and their first convolution in the next.
    rest = [tuple(modules[name].weight.shape[:2]) for name in left_out if name not in depthwise]
    assert rest == [(32, 3), (144, 24), (144, 24)]
    assert "classifier.1" in chosen(mobilenet)


def test_multiples_count_outputs_and_inputs():
    model = nn.Sequential(*(nn.Linear(i, o) for i, o in ((16, 8), (8, 16), (16, 4), (32, 24))))
    names = [layer.name for layer in Scope(False, False, multiples=[8, 16]).resolve(model, None, NM(2, 4))]
    assert names == ["0", "3"]
    for multiples in ([8], 8, [8, 0], [8, "a"]):
        with pytest.raises(ValueError, match="multiples="):
            Scope(multiples=multiples)


@pytest.mark.slow
def test_without_weights_it_is_refused_and_nothing_is_written(start, tmp_path):
    done = start("pruner=asp")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("configuration error: trainer.mode=finetune: begins from trained weights")
    for way_out in ("model.checkpoint=outputs/dense", "model.pretrained=true", "trainer.mode=train schedule.start=0.5"):
        assert way_out in line
    assert list(tmp_path.iterdir()) == []


def test_any_run_may_ask_for_trained_weights(dense):
    with pytest.raises(ConfigError, match=r"trainer\.mode=finetune: begins from trained weights"):
        Plan.of(composed(*SHORT, "pruner=nm", "trainer.mode=finetune"))
    pretrained = ("model=torchvision", "model.name=resnet18", "model.small_stem=false", "model.pretrained=true")
    assert Plan.of(composed(*pretrained, "pruner=asp")).parts.trainer.mode == "finetune"
    given = (*SHORT, "pruner=nm", f"model.checkpoint={dense}")
    assert Plan.of(composed(*given, "trainer.mode=finetune")).hash == Plan.of(composed(*given)).hash


def test_what_is_typed_wins_and_trains_dense_first():
    plan = Plan.of(composed(*SHORT, "pruner=asp", *ALONE["asp"]))
    assert (plan.parts.trainer.mode, plan.parts.schedule.start) == ("train", 0.5)
    session, kept = build_session(plan), []

    def after_step():
        kept.append(min(session.pruner.kept()))
        return False

    assert train(session, lambda: None, lambda row: None, after_step)
    assert kept == [1.0] * 6 + [0.5] * 6
