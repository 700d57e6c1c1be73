"""What the trainer can do besides the plain step, each against the plain one or against a computation by hand."""

import pytest
import torch
from conftest import composed

from midstate.common.errors import ConfigError
from midstate.engine.mixup import Mixing
from midstate.engine.step import train_step
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session

# No BatchNorm, so that parts of a batch see what the whole does.
TRANSFORMER = (
    "model=timm",
    *("+model.arguments.depth=2", "+model.arguments.embed_dim=48", "+model.arguments.num_heads=3"),
    "optimizer=adamw",
)


def session_of(*overrides):
    size = () if "data=fake" in overrides else ("data.train_placements=1", "data.eval_placements=1")
    return build_session(Plan.of(composed(*size, "logger=none", "trainer.probes=false", *overrides)))


def trained(*overrides, steps=8):
    """Losses of some steps, the masks moving at every one of them, and the session."""
    session = session_of("trainer.epochs=1", f"trainer.max_steps_per_epoch={steps}", *overrides)
    session.model.train()
    for batch in session.batches.epoch(0):
        train_step(session, *batch)
    return session.losses, session


@pytest.mark.parametrize("parts", [2, 5])
@pytest.mark.parametrize("pruner", ["nm_block", "magnitude", "dense"])
def test_a_batch_in_parts_is_the_same_batch(pruner, parts):
    """64 images in 5 parts are not of equal size, and weigh what they are. SR-STE's decay comes once a step."""
    settings = (*TRANSFORMER, f"pruner={pruner}", "optimizer=sgd")
    whole, one = trained(*settings)
    in_parts, other = trained(*settings, f"trainer.accumulate={parts}")
    assert in_parts == pytest.approx(whole, rel=1e-5)
    assert other.totals["correct"] == pytest.approx(one.totals["correct"], abs=2)
    for mask, same in zip(one.pruner.masks, other.pruner.masks, strict=True):
        assert (mask != same).float().mean() < 0.001  # ties of scores may fall otherwise


def test_more_parts_than_images_are_refused():
    with pytest.raises(ConfigError, match=r"accumulate=65: must be at most batch_size=64"):
        session_of("trainer.accumulate=65")
    with pytest.raises(ConfigError, match="at most the 10 images"):
        session_of("data=fake", "data.num_train=10", "trainer.accumulate=11")


@pytest.mark.slow
def test_compiled_steps_are_the_eager_ones():
    """Masks are refreshed in place at every step; what is compiled once must see each of them."""
    eager, _ = trained("pruner=maxq", steps=6)
    compiled, session = trained("pruner=maxq", "trainer.compile=true", steps=6)
    assert compiled[:3] == pytest.approx(eager[:3], rel=1e-5)
    assert compiled == pytest.approx(eager, rel=1e-3)  # last bits, multiplied by masks that they decide
    assert len(set(session.losses)) == 6
    assert "stages.0.0.conv1.parametrizations.weight.original" in session.model.state_dict()  # names stay


def test_fp16_steps_are_scaled_and_saved():
    exact, _ = trained("trainer.precision=fp32")
    half, session = trained("trainer.precision=fp16")
    assert half == pytest.approx(exact, rel=0.02)
    assert half != exact
    state = session.state_dict()
    assert state["scaler"]["scale"] >= 1
    again = session_of("trainer.epochs=1", "trainer.max_steps_per_epoch=8", "trainer.precision=fp16")
    again.scaler.load_state_dict({**state["scaler"], "scale": 8.0})
    state["scaler"] = again.scaler.state_dict()
    again.load_state_dict({"step": session.step, **state})
    assert again.scaler.get_scale() == 8.0


def test_a_step_of_fp16_that_overflows_is_left_out():
    session = session_of("trainer.precision=fp16", "trainer.clip_norm=1", "pruner=dense")
    session.model.train()
    batches = session.batches.epoch(0)
    train_step(session, *next(batches))
    session.scaler.load_state_dict({**session.scaler.state_dict(), "scale": 2.0**60})
    before = {name: tensor.clone() for name, tensor in session.model.named_parameters()}
    train_step(session, *next(batches))
    assert all(torch.equal(before[name], tensor) for name, tensor in session.model.named_parameters())
    assert session.scaler.get_scale() == 2.0**59
    assert session.step == 2


def test_the_decay_on_pruned_weights_is_not_scaled():
    """SR-STE adds decay * w to gradients after they are unscaled: a scaler that divided it away would lose it."""
    gradients = {}
    for precision in ("fp32", "fp16"):
        session = session_of(f"trainer.precision={precision}", "pruner=sr_ste", "pruner.decay=10")
        session.model.train()
        train_step(session, *next(session.batches.epoch(0)))
        gradients[precision] = session.pruner._weights[3].grad
    difference = (gradients["fp16"] - gradients["fp32"]).norm() / gradients["fp32"].norm()
    assert difference < 0.02


def test_the_moving_average_by_hand():
    session = session_of("trainer.ema=0.5", "pruner=nm_block", "trainer.epochs=1", "trainer.max_steps_per_epoch=4")
    session.model.train()
    weight = session.pruner._weights[2]
    mean = weight.detach().clone()
    for batch in session.batches.epoch(0):
        train_step(session, *batch)
        mean = weight.detach().clone() if session.step == 1 else 0.5 * mean + 0.5 * weight.detach()
    own, mask = weight.detach().clone(), session.pruner.masks[2].clone()
    with session.averaged():
        assert torch.allclose(weight, mean, atol=1e-7)
        assert torch.equal(session.pruner.masks[2], mask)
    assert torch.equal(weight, own)
    state = session.state_dict()
    again = session_of("trainer.ema=0.5", "pruner=nm_block", "trainer.epochs=1", "trainer.max_steps_per_epoch=4")
    again.load_state_dict({"step": 4, **state})
    again.take_average()
    assert torch.allclose(again.pruner._weights[2], mean, atol=1e-7)


@pytest.mark.slow
def test_what_is_saved_is_the_average_and_obeys_the_pattern(start, tmp_path):
    import json

    from conftest import TINY

    for ema in ("null", "0.9"):
        short = ("trainer.epochs=2", "trainer.probes=false")
        done = start(*TINY, *short, f"trainer.ema={ema}", f"run_dir=ema_{ema}", "pruner.n=2", "pruner.m=4")
        assert done.returncode == 0, done.stderr
    plain, averaged = (json.loads((tmp_path / f"ema_{ema}/summary.json").read_text()) for ema in ("null", "0.9"))
    assert averaged["pattern_verified"]
    assert averaged["loss"] != plain["loss"]
    losses = [(tmp_path / f"ema_{ema}/losses.csv").read_text() for ema in ("null", "0.9")]
    assert losses[0] == losses[1]  # training itself is the same


def test_mixup_by_hand():
    images, labels = torch.arange(8.0).view(4, 1, 1, 2), torch.tensor([0, 1, 2, 1])
    mixed, targets = Mixing(1.0, 0, 3, seed=0)(images, labels, step=5)
    share = float(targets[2, 2])  # what is left of its own label
    assert 0 < share < 1
    assert torch.allclose(mixed, share * images + (1 - share) * images.roll(1, 0))
    assert torch.allclose(targets[1], torch.tensor([1 - share, share, 0]))
    assert torch.allclose(targets.sum(1), torch.ones(4))
    before = torch.get_rng_state()
    again, _ = Mixing(1.0, 0, 3, seed=0)(images, labels, step=5)
    assert torch.equal(again, mixed)
    assert torch.equal(torch.get_rng_state(), before)  # dropout's draws stay as they are
    other, _ = Mixing(1.0, 0, 3, seed=0)(images, labels, step=6)
    assert not torch.equal(other, mixed)


def test_mixing_takes_whole_numbers_and_leaves_the_generators_of_gpus_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded"))
    images, labels = torch.arange(8.0).view(4, 1, 1, 2), torch.tensor([0, 1, 2, 1])
    assert Mixing(1, 0, 3, seed=0)(images, labels, step=5)[0].equal(
        Mixing(1.0, 0, 3, seed=0)(images, labels, step=5)[0]
    )
    Mixing(0, 10**12, 3, seed=0)(images, labels, step=5)


def test_cutmix_takes_a_box_and_its_share_of_the_label():
    images = torch.stack([torch.full((1, 10, 10), float(i)) for i in range(4)])
    mixed, targets = Mixing(0, 1.0, 4, seed=0)(images, torch.arange(4), step=1)
    taken = (mixed[1] == 0).float().mean()
    assert 0 < taken < 1
    assert targets[1, 0] == pytest.approx(float(taken))
    assert targets[1, 1] == pytest.approx(1 - float(taken))


def test_both_ways_of_mixing_take_turns():
    images = torch.stack([torch.full((1, 10, 10), float(i)) for i in range(4)])
    mixing = Mixing(1.0, 1.0, 4, seed=0)
    whole = [len(mixing(images, torch.arange(4), step)[0][1].unique()) == 1 for step in range(40)]
    assert 8 < sum(whole) < 36  # mixup leaves a flat image flat, CutMix hardly ever


def test_mixed_batches_train():
    losses, session = trained("trainer.mixup=0.2", "trainer.cutmix=1.0", "trainer.accumulate=2")
    assert losses != trained()[0]
    assert session.totals["images"] == 8 * 64


def test_pruner_and_quantizer_each_act_at_their_own_interval():
    """A pruner that acts at every step does not make the quantizer do so, nor the other way round."""
    for settings, always, seldom in (
        (("pruner.every=1it", "quantizer.every=3it"), 0, 1),
        (("pruner.every=3it", "quantizer.every=1it"), 1, 0),
    ):
        session = session_of(
            "pruner=nm_block", "schedule=cubic", "schedule.start=0", "schedule.stop=1", "quantizer=uniform",
            "quantizer/path=bits", "trainer.epochs=1", "trainer.max_steps_per_epoch=9", *settings,
        )  # fmt: skip
        session.model.train()
        seen = ([], [])
        for batch in session.batches.epoch(0):
            train_step(session, *batch)
            for found, walker in zip(seen, (session.walkers[always], session.walkers[seldom]), strict=True):
                found.append(walker._refreshed)
        assert seen == (list(range(9)), [0, 0, 0, 3, 3, 3, 6, 6, 6]), settings
