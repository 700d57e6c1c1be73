"""`prune` does, bit by bit, what a loop does that calls the pruner by hand."""

import pytest
import torch
from loops import CUBIC, METHODS, OPTIMIZERS, STEPS, assert_same, batches, by_hand, gradients, network
from torch import nn
from torch.nn.utils import clip_grad_norm_

from midstate import prune


def nothing():
    pass


class Plain:
    """A step as most loops make it."""

    parts, clip, scaled, spoilt = 1, None, False, ()

    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.number = model, optimizer, -1
        # Scales that are no powers of two, so that dividing them out is not exact.
        self.scaler = torch.amp.GradScaler("cpu", 1000.0, 1.7, 0.3, 3, enabled=self.scaled)

    def __call__(self, images, labels, before=nothing):
        self.number += 1
        scaler = self.scaler
        gradients(self.model, self.optimizer, images, labels, self.parts, scaler.scale)
        if self.number in self.spoilt:
            self.model[2].bias.grad[0] = torch.inf
        if before is not nothing or self.clip:
            scaler.unscale_(self.optimizer)
        if self.clip:
            clip_grad_norm_(self.model.parameters(), self.clip)
        before()
        scaler.step(self.optimizer)
        scaler.update()
        return self.number not in self.spoilt


class Accumulated(Plain):
    parts = 4


class Clipped(Plain):
    clip = 0.05


class Scaled(Plain):
    scaled = True


class ScaledAndClipped(Scaled):
    clip = 0.05


class Skipped(Scaled):
    spoilt = (2, 5)


class Closure(Plain):
    def __call__(self, images, labels, before=nothing):
        def closure():
            loss = gradients(self.model, self.optimizer, images, labels)
            before()
            return loss

        self.optimizer.step(closure)
        return True


class NamedClosure(Closure):
    def __call__(self, images, labels, before=nothing):
        step = self.optimizer.step
        self.optimizer.step = lambda closure: step(closure=closure)
        try:
            return super().__call__(images, labels, before)
        finally:
            self.optimizer.step = step


LOOPS = (Plain, Accumulated, Clipped, Scaled, ScaledAndClipped, Skipped, Closure, NamedClosure)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_bits_are_those_of_a_loop_written_out(method, make, loop):
    model, other = network(), network()
    optimizer, others = make(model.parameters()), make(other.parameters())
    made = STEPS - len(loop.spoilt)
    pruner = prune(model, optimizer, method, schedule=CUBIC, total_steps=STEPS)
    step = loop(model, optimizer)
    for images, labels in batches():
        step(images, labels)
    written_out = by_hand(other, others, method, loop(other, others))
    assert pruner.step == made
    assert_same(model, other)
    if made == STEPS:
        pruner.finalise()
        written_out.finalise()
        assert_same(model, other)


def test_the_rule_acts_after_clipping():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    seen = []
    prune(model, optimizer, "sr_ste", n=2, m=4, total_steps=2)
    original = model[2].parametrizations.weight.original
    optimizer.register_step_pre_hook(lambda *_: seen.append(original.grad.clone()))
    gradients(model, optimizer, *batches(1)[0])
    clip_grad_norm_(model.parameters(), 1e-9)
    clipped, hidden = original.grad.clone(), original.detach().clone()
    mask = model[2].parametrizations.weight[0].mask.clone()
    optimizer.step()
    assert seen[0].equal(clipped.add(hidden * ~mask, alpha=2e-4))


def test_an_optimizer_that_calls_its_closure_again_is_refused():
    model = network()
    with pytest.raises(ValueError, match="optimizer=LBFGS: calls its closure more than once a step"):
        prune(model, torch.optim.LBFGS(model.parameters()), "nm", n=2, m=4, total_steps=2)

    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            return super().step(closure)

    optimizer = Twice(model.parameters())
    prune(model, optimizer, "nm", n=2, m=4, total_steps=2)
    with pytest.raises(ValueError, match="calls its closure more than once a step"):
        optimizer.step(lambda: gradients(model, optimizer, *batches(1)[0]))


def test_a_class_whose_step_calls_its_bases_makes_one_step():
    class Mine(torch.optim.SGD):
        def step(self, closure=None):
            if self.spoilt:
                raise KeyError("spoilt")
            return super().step(closure)

    model, other = network(), network()
    optimizer, others = (kind(net.parameters(), lr=0.05) for kind, net in ((Mine, model), (torch.optim.SGD, other)))
    optimizer.spoilt = True
    pruner = prune(model, optimizer, METHODS["hard"], schedule=CUBIC, total_steps=STEPS)
    with pytest.raises(KeyError):
        optimizer.step()
    optimizer.spoilt = False
    step = Plain(model, optimizer)
    for images, labels in batches():
        step(images, labels)
    by_hand(other, others, METHODS["hard"], Plain(other, others))
    assert pruner.step == STEPS
    assert_same(model, other)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_of_two_optimizers_the_first_counts_and_each_has_its_own_weights(method):
    model, other = network(), network()

    def split(net):
        first = torch.optim.SGD(net[:4].parameters(), lr=0.05, momentum=0.9)
        return [first, torch.optim.SGD(net[4:].parameters(), lr=0.02, momentum=0.9, weight_decay=0.1)]

    optimizers = split(model)
    pruner = prune(model, optimizers, method, schedule=CUBIC, total_steps=STEPS)
    for images, labels in batches():
        for each in optimizers:
            each.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        for each in reversed(optimizers):  # the one that counts ends the step
            each.step()
    others = split(other)

    def step(images, labels, before):
        for each in others:
            each.zero_grad()
        nn.functional.cross_entropy(other(images), labels).backward()
        before()
        for each in others:
            each.step()
        return True

    class Both:
        @property
        def state(self):
            return {**others[0].state, **others[1].state}

    by_hand(other, Both(), method, step)
    assert pruner.step == STEPS
    assert_same(model, other)
