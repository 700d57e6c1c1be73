"""What `prune` gives back: counting, checkpoints, what is shown, and the end."""

import copy
import io
import re
from typing import ClassVar

import pytest
import torch
from conftest import ROOT
from loops import METHODS, STEPS, assert_same, batches, gradients, network

from midstate import prune
from midstate.sparsity import Hard, verify_nm

PAGE = (ROOT / "docs" / "own_loop.md").read_text()


def made(name="nm_block", number=STEPS, **settings):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    return model, optimizer, prune(model, optimizer, name, total_steps=number, **settings)


def train(model, optimizer, some):
    for images, labels in some:
        gradients(model, optimizer, images, labels)
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nm_block", {"n": 2, "m": 4}),
        ("lbc", {"n": 2, "m": 4}),
        ("rigl", {"every": "2it"}),
        ("magnitude", {"every": "3it"}),
        ("channel", {"every": "3it", "sparsity": 0.5, "sample": batches(1)[0]}),
        ("domino", {"n": 2, "m": 4, "trained": True, "sample": batches(1)[0]}),
        ("nm", {"n": 2, "m": 4, "permute": True, "sample": batches(1)[0]}),
    ],
)
def test_a_loop_that_was_interrupted_gives_the_same_bits(name, settings):
    model, optimizer, pruner = made(name, **settings)
    train(model, optimizer, batches()[:3])
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (model, optimizer, pruner)], file)
    train(model, optimizer, batches()[3:])
    pruner.finalise()

    other, optimizer, again = made(name, **settings)
    file.seek(0)
    for each, state in zip((other, optimizer, again), torch.load(file, weights_only=True), strict=True):
        each.load_state_dict(state)
    train(other, optimizer, batches()[3:])
    again.finalise()
    assert_same(model, other)


def test_the_page_saves_and_loads_as_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = (part for part in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if part.startswith("torch.save"))
    model, optimizer, pruner = made(n=2, m=4)
    train(model, optimizer, batches()[:3])
    exec(code, {"torch": torch, "model": model, "optimizer": optimizer, "pruner": pruner})
    assert pruner.step == 3


def test_a_checkpoint_of_a_longer_run_is_refused():
    state = made(n=2, m=4)[2].state_dict()
    with pytest.raises(ValueError, match="total_steps=9: the checkpoint is of a run of 8 steps"):
        made(n=2, m=4, number=9)[2].load_state_dict(state)


def test_it_ends_when_the_steps_are_made_and_leaves_everything_plain():
    model, optimizer, pruner = made(n=2, m=4)
    train(model, optimizer, batches()[:-1])
    with pytest.raises(ValueError, match="finalise: 7 optimizer steps are made, and total_steps=8"):
        pruner.finalise()
    train(model, optimizer, batches()[-1:])
    pruner.finalise()
    network().load_state_dict(model.state_dict(), strict=True)
    assert verify_nm(model[2].weight, 2, 4)
    assert verify_nm(model[4].weight, 2, 4)
    assert model[0].weight.all()
    assert any(model[2].weight is each for each in optimizer.param_groups[0]["params"])
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    with pytest.raises(ValueError, match="finalise: was called before"):
        pruner.finalise()


class Unfoldable(Hard):
    """Fails where masks are folded in."""

    fails: ClassVar[bool] = False

    def apply(self, weight, mask, memory):
        if Unfoldable.fails:
            raise MemoryError
        return super().apply(weight, mask, memory)


def test_an_end_that_failed_can_be_tried_again(monkeypatch):
    model, optimizer, pruner = made(n=2, m=4, estimator=Unfoldable())
    train(model, optimizer, batches())
    monkeypatch.setattr(Unfoldable, "fails", True)
    with pytest.raises(MemoryError):
        pruner.finalise()
    monkeypatch.undo()
    pruner.finalise()
    assert verify_nm(model[2].weight, 2, 4)


def test_a_loop_that_goes_on_is_told_and_keeps_its_masks(caplog):
    model, optimizer, pruner = made(n=2, m=4)
    train(model, optimizer, batches())
    masks = [mask.clone() for mask in pruner.pruner.masks]
    train(model, optimizer, batches(2))
    assert caplog.text.count("more than total_steps=8 steps") == 1
    assert all(mask.equal(before) for mask, before in zip(pruner.pruner.masks, masks, strict=True))
    pruner.finalise()
    assert verify_nm(model[2].weight, 2, 4)


def test_logs_are_told_where_it_is():
    model, optimizer, pruner = made(n=2, m=4, schedule="linear", stop=0.5)
    assert (pruner.step, pruner.progress, pruner.kept()) == (0, 0.0, 1.0)
    train(model, optimizer, batches()[:2])
    assert (pruner.step, pruner.progress) == (2, 0.5)
    assert pruner.kept() == pytest.approx(0.75, abs=0.01)
    assert pruner.describe() == (
        "nm_block, step 2 of 8: 2:4 on 50 % of blocks, 75 % of the weights of 2 layers in use; classifier: 7; "
        "dense: 0 (first), 7 (classifier)"
    )
    train(model, optimizer, batches()[2:])
    pruner.finalise()
    assert (pruner.progress, pruner.kept()) == (1.0, 0.5)


@pytest.mark.parametrize("names", [False, True])
def test_parameters_of_a_method_join_the_optimizer_and_leave_it(names):
    model = network()
    given = model.named_parameters() if names else model.parameters()
    optimizer = torch.optim.SGD(given, lr=0.05, momentum=0.9)
    pruner = prune(model, optimizer, "lbc", n=2, m=4, total_steps=STEPS)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    own, added = optimizer.param_groups
    assert len(added["params"]) == 2
    before = [each.detach().clone() for each in added["params"]]
    train(model, optimizer, batches()[:2])
    schedule.step()
    assert not any(each.equal(begun) for each, begun in zip(added["params"], before, strict=True))
    train(model, optimizer, batches()[2:])
    pruner.finalise()
    assert optimizer.param_groups == [own]
    assert {*optimizer.state} == {*model.parameters()}


def test_a_copy_of_the_optimizer_does_not_prune():
    _, optimizer, pruner = made(n=2, m=4)
    copied = copy.deepcopy(optimizer)
    copied.step()
    assert pruner.step == 0


def test_dense_runs_in_the_same_loop():
    model, optimizer, pruner = made("dense")
    train(model, optimizer, batches())
    pruner.finalise()
    other = network()
    train(other, torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01), batches())
    assert_same(model, other)


def test_a_compiled_step_sees_new_masks_without_another_graph():
    model, optimizer, pruner = made(METHODS["hard"], schedule="linear")
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    train(compiled, optimizer, batches())
    pruner.finalise()
    other, optimizer, again = made(METHODS["hard"], schedule="linear")
    train(other, optimizer, batches())
    again.finalise()
    assert len(graphs) == 1
    assert_same(model, other)


def test_channels_are_put_in_order_when_pruning_begins():
    sample = batches(1)[0]
    with pytest.raises(ValueError, match="follows channels through the network with an image"):
        made("nm", n=2, m=4, permute=True)
    plain, model = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    asp = {"n": 2, "m": 4, "multiples": None, "start": 0.5, "permute": True}
    pruner = prune(model, optimizer, "asp", total_steps=STEPS, sample=sample, **asp)
    train(model, optimizer, batches()[:3])
    assert pruner.pruner.reordered is None
    train(model, optimizer, batches()[3:])
    pruner.finalise()
    reordered = pruner.pruner.reordered
    assert reordered["after"] > reordered["before"]
    assert verify_nm(model[2].weight, 2, 4)
    plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", ["nm_block", "filter"])
def test_a_copy_of_the_model_still_runs_after_the_end_of_pruning(name):
    """A moving average or the best model so far; it shares the class that torch made for a masked layer."""
    settings = {"n": 2, "m": 4} if name == "nm_block" else {"every": "2it"}
    model, optimizer, pruner = made(name, **settings)
    train(model, optimizer, batches())
    images, _ = batches(1)[0]
    best = copy.deepcopy(model)
    expected = best(images)
    pruner.finalise()
    assert torch.equal(best(images), expected)
    assert [type(each) for each in model.modules()] == [type(each) for each in network().modules()]
