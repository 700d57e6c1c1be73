"""The run contract, on real runs in this process."""

import json
import math
import shutil

import pytest
import torch
import yaml
from conftest import ALONE, ROOT, TINY, composed, table, tiny
from omegaconf import OmegaConf

from midstate.common.errors import ConfigError, RunFailed
from midstate.engine.evaluate import evaluate
from midstate.engine.loop import train
from midstate.engine.step import train_step
from midstate.models import CifarResNet
from midstate.runs import checkpoint
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.runs.report import result_lines
from midstate.runs.tracking import METRICS, PROBES
from midstate.sparsity import weight_layers


def without_clock(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


@pytest.fixture(scope="module")
def block_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("block")
    return directory, tiny(
        directory, "pruner=nm_block", "schedule=linear", "trainer.probes=true", "machine.figures=true"
    )


def test_summary_has_every_field_of_the_contract(block_run):
    _, summary = block_run
    assert set(summary) >= {
        *("format", "status", "config_hash", "numerics", "seed", "model", "data", "pruner", "schedule", "epochs"),
        *("top1", "top5", "loss", "top1_gap", "params_total", "params_prunable", "params_nonzero", "sparsity"),
        *("sparsity_total", "macs_dense", "macs_sparse", "pattern_verified", "layers", "images_per_second"),
        *("wall_seconds", "device", "threads", "torch", "git"),
    }
    assert (summary["format"], summary["status"], summary["seed"], summary["threads"]) == (1, "finished", 0, 1)
    assert (summary["model"], summary["data"], summary["pruner"], summary["schedule"]) == (
        "resnet8",
        "clutter",
        "nm_block",
        "linear",
    )
    assert summary["sparsity"] == 15 / 16
    assert summary["params_prunable"] == 76288
    assert summary["params_total"] == 77754
    assert summary["pattern_verified"] is True
    assert summary["layers"][0]["name"] == "stages.0.0.conv1"
    assert all(layer["target"] == layer["kept"] == 1 / 16 for layer in summary["layers"])
    assert [layer["depth"] for layer in summary["layers"]] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_tables_have_the_columns_of_the_contract(block_run):
    directory, summary = block_run
    rows, probes = table(directory / "metrics.csv"), table(directory / "probes.csv")
    assert list(rows[0]) == list(METRICS)
    assert list(probes[0]) == list(PROBES)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [int(row["step"]) for row in rows] == [6, 12, 18, 24]
    # 18 of 24 steps of a linear ramp: a third a epoch, then the target.
    assert [float(row["progress"]) for row in rows] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert [float(row["kept"]) for row in rows] == pytest.approx([1 - 15 / 48, 1 - 30 / 48, 1 / 16, 1 / 16], abs=1e-3)
    assert [(int(p["from"]), int(p["to"])) for p in probes][-1][1] == 15
    assert summary["top1_gap"] == float(probes[-1]["gap_bn"])
    steps = [int(probe["step"]) for probe in probes]
    for row, first in zip(rows, (0, 7, 13, 19), strict=True):
        gaps = [float(p["gap_bn"]) for p, step in zip(probes, steps, strict=True) if first <= step <= int(row["step"])]
        assert row["gap"] == (str(max(gaps)) if gaps else "")


def test_the_finished_weights_load_into_a_plain_model_and_obey_the_pattern(block_run):
    directory, summary = block_run
    model = CifarResNet([1, 1, 1], [16, 32, 64], "conv").create(1, 10)
    state = torch.load(directory / "checkpoints" / "final.pt", weights_only=True)
    model.load_state_dict(state["model"])
    names = {layer["name"] for layer in summary["layers"]}
    for layer in weight_layers(model):
        groups = (layer.weight != 0).flatten(2) if layer.weight.dim() == 4 else (layer.weight != 0)
        if layer.name in names:
            assert (groups.unflatten(1, (-1, 16)).sum(2) == 1).all()
        else:
            assert groups.float().mean() > 0.9


def test_config_and_pictures_are_written(block_run):
    directory, _ = block_run
    config = OmegaConf.load(directory / "config.yaml")
    assert config.trainer.device in ("cpu", "cuda")  # resolved
    assert config.pruner.pattern.n == 1
    for name in ("accuracy", "kept_by_depth", "schedule"):
        assert (directory / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (directory / "figures" / f"{name}.svg").read_text()[:500]


@pytest.mark.parametrize("pruner", ["nm", "nm_step", "nm_block"])
@pytest.mark.parametrize("estimator", ["hard", "ste", "sr_ste"])
def test_every_method_ends_at_its_pattern(pruner, estimator):
    method = (f"pruner={pruner}", f"pruner/estimator={estimator}", "pruner.n=2", "pruner.m=8")
    pruned = trained(*method, "trainer.epochs=2")
    assert [float((layer.weight != 0).float().mean()) for layer in pruned.layers] == [0.25] * 8


@pytest.mark.parametrize("order", ["inverse", "random"])
def test_every_order_ends_at_its_pattern(order):
    pruned = trained(f"pruner.order={order}", "trainer.epochs=2")
    assert [float((layer.weight != 0).float().mean()) for layer in pruned.layers] == [1 / 16] * 8


def trained(*overrides):
    """A pruner at the end of a run of which nothing is written; its weights obey the pattern."""
    session = build_session(Plan.of(composed(*TINY, *overrides, "trainer.probes=false")))
    assert train(session, lambda: None, lambda row: None, lambda: False)
    session.check_finite()
    session.pruner.finalise()
    assert session.pruner.verify() is True
    assert math.isfinite(evaluate(session.model, session.data.test)["loss"])
    return session.pruner


def test_dense_prunes_nothing(tmp_path):
    summary = tiny(tmp_path, "pruner=dense")
    assert (summary["pattern_verified"], summary["sparsity"], summary["top1_gap"]) == (None, 0.0, None)
    assert summary["params_prunable"] == 76288  # the same denominator as the pruned runs
    assert summary["macs_sparse"] == summary["macs_dense"]


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["nm_block", "magnitude"])
def test_torchvisions_attention_is_pruned_with_the_same_presets(pruner):
    """Twelve layers of 768 are too large to train here: from the configuration to finished, verified weights."""
    session = build_session(Plan.of(
        composed(*TINY, "model=torchvision", "model.name=vit_b_16", "model.small_stem=false",
                 "+model.arguments.image_size=16", f"pruner={pruner}",
                 "pruner.exclude=[heads.head]")  # untrained, its weights are zero: a collapsed layer would not pass
    ))  # fmt: skip
    pruned = session.pruner
    pruned.refresh(session.total_steps)
    images = session.data.test.images[:4]
    session.model.eval()
    masked = session.model(images)
    pruned.finalise()
    assert pruned.verify()
    assert torch.allclose(session.model(images), masked, atol=1e-5)
    attention = [layer for layer in pruned.layers if layer.name.endswith("self_attention.in_proj_weight")]
    assert len(attention) == 12
    share = 1 / 16 if pruner == "nm_block" else 0.1
    assert all(float((layer.weight != 0).float().mean()) == pytest.approx(share, abs=1e-6) for layer in attention)


def final_state(directory):
    return torch.load(checkpoint.checkpoints(directory / "checkpoints")[-1], weights_only=True)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if "seconds" not in str(key))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or a is b is None


@pytest.mark.slow
def test_the_same_command_gives_the_same_bits(block_run, tmp_path):
    directory, _ = block_run
    tiny(tmp_path, "pruner=nm_block", "schedule=linear", "trainer.probes=true")
    first, second = (final_state(d) for d in (directory, tmp_path))
    assert same(first["model"], second["model"])
    assert same(first["optimizer"], second["optimizer"])
    assert without_clock(table(directory / "metrics.csv")) == without_clock(table(tmp_path / "metrics.csv"))
    assert table(directory / "probes.csv") == table(tmp_path / "probes.csv")


def test_probes_do_not_touch_training(block_run, tmp_path):
    directory, _ = block_run
    tiny(tmp_path, "pruner=nm_block", "schedule=linear", "trainer.probes=false")
    assert same(final_state(directory)["model"], final_state(tmp_path)["model"])


PRESETS = sorted({path.stem for path in (ROOT / "conf" / "pruner").glob("*.yaml")} - {"dense", "dense_small"})


@pytest.mark.slow
@pytest.mark.parametrize("pruner", PRESETS)
def test_every_preset_ends_at_its_target(tmp_path, pruner):
    summary = tiny(tmp_path, f"pruner={pruner}", *ALONE.get(pruner, ()), "trainer.probes=false")
    assert summary["pattern_verified"] is True
    assert summary["top1_gap"] is None
    assert math.isfinite(summary["loss"])
    assert all(layer["kept"] == pytest.approx(layer["target"]) for layer in summary["layers"])
    assert min(layer["kept"] for layer in summary["layers"]) > 0
    assert summary["allocation"]["params_slack"] >= 0
    assert summary["params_sparse"] <= summary["params_nonzero"] < summary["params_total"]
    assert summary["macs_sparse"] < summary["macs_dense"]


@pytest.mark.slow
def test_a_found_scheme_is_used_again_by_any_path_and_its_content_is_part_of_the_identity(tmp_path):
    found = tiny(tmp_path / "search", "pruner=nm_mixed", "trainer.probes=false")
    assert found["allocation"]["moved"] > 0
    assert 0 <= found["allocation"]["params_slack"] < 0.05
    scheme = tmp_path / "search" / "scheme.json"
    reuse = ("pruner=nm_step", "pruner/allocation=scheme", f"pruner.scheme={scheme}", "pruner.n=2", "pruner.m=8")
    again = tiny(tmp_path / "again", *reuse, "trainer.probes=false")
    assert [layer["kept"] for layer in again["layers"]] == [layer["kept"] for layer in found["layers"]]
    assert again["allocation"]["moved"] == found["allocation"]["moved"]
    assert (tmp_path / "again" / "scheme.json").read_text() == scheme.read_text()
    elsewhere = tmp_path / "copy.json"
    elsewhere.write_text(scheme.read_text())
    same = Plan.of(composed(*TINY, *reuse, f"pruner.scheme={elsewhere}", "trainer.probes=false"))
    assert same.hash == again["config_hash"]  # the content counts, not the place
    elsewhere.write_text(scheme.read_text().replace(": 4", ": 2"))
    other = Plan.of(composed(*TINY, *reuse, f"pruner.scheme={elsewhere}", "trainer.probes=false"))
    assert other.hash != again["config_hash"]


# Interrupted behind the cut, and before it, under the penalty.
SLIMMING = ("network_slimming", "network_slimming schedule.start=0.9")
# Of those that drop and grow, an exchange is due just where the run goes on.
DOMINO = "domino trainer.mode=train"
CHANNELS = "channel pruner/allocation=global pruner.every=5it"
EXCHANGE = "pruner.every=5it pruner.until=1.0 pruner.drop_fraction=1"


@pytest.mark.parametrize(
    "pruner",
    [
        "sfp",
        "maxq",
        "nm_mixed",
        DOMINO,
        *SLIMMING,
        f"rigl {EXCHANGE}",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (CHANNELS, "global_filter", "wanda", f"set {EXCHANGE}")
        ),
    ],
)
@pytest.mark.slow
def test_every_kind_of_state_survives_an_interruption(tmp_path, pruner):
    arguments = (*f"pruner={pruner}".split(), "trainer.checkpoint_every=5it", "trainer.probes=false")
    tiny(tmp_path / "whole", *arguments)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    saved = checkpoint.checkpoints(tmp_path / "resumed" / "checkpoints")
    assert [path.stem for path in saved] == ["step-000000020", "step-000000024"]
    saved[-1].unlink()  # as if it had been killed after step 20, in the middle of the last epoch
    (tmp_path / "resumed" / "summary.json").unlink()
    (tmp_path / "resumed" / "checkpoints" / "final.pt").unlink()
    tiny(tmp_path / "resumed", *arguments)
    whole, resumed = (final_state(tmp_path / name) for name in ("whole", "resumed"))
    for part in ("model", "optimizer", "pruner"):
        assert same(whole[part], resumed[part])
    tables = [without_clock(table(tmp_path / name / "metrics.csv")) for name in ("whole", "resumed")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_stop_is_heard_while_an_allocation_measures():
    """Measuring sensitivities can take minutes; stopping in their midst loses nothing but them."""
    whole, stopped = (
        build_session(Plan.of(composed(*TINY, "pruner=nm_mixed", "trainer.probes=false"))) for _ in range(2)
    )
    asked, saved = [], []

    def stop():
        asked.append(stopped.step)
        return asked.count(6) == 4  # after step 6, then between measurements

    nothing = lambda *_: None  # noqa: E731
    assert train(stopped, lambda: saved.append(stopped.step), nothing, stop) is False
    assert (saved[-1], stopped.step, stopped.pruner.levels) == (6, 6, None)
    assert all(mask.all() for mask in stopped.pruner.masks)
    assert train(stopped, nothing, nothing, lambda: False)
    assert train(whole, nothing, nothing, lambda: False)
    assert stopped.pruner.levels == whole.pruner.levels
    assert same(stopped.model.state_dict(), whole.model.state_dict())


TRANSFORMERS = {
    "vit": ("model=timm", "model.name=vit_tiny_patch16_224", "+model.arguments.depth=2", "attn.qkv"),
    "swin": (
        "model=timm", "model.name=swin_tiny_patch4_window7_224",
        "+model.arguments={patch_size: 1, window_size: 4, embed_dim: 32, depths: [1, 1], num_heads: [2, 4]}",
        "attn.qkv",
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", TRANSFORMERS)
@pytest.mark.parametrize("pruner", ["nm_block", "magnitude"])
def test_transformers_prune_with_the_same_presets(tmp_path, model, pruner):
    *arguments, attention = TRANSFORMERS[model]
    summary = tiny(tmp_path, *arguments, f"pruner={pruner}", "trainer.max_steps_per_epoch=1", "trainer.epochs=2",
                   "data.train_placements=1", "optimizer=adamw", "trainer.probes=false")  # fmt: skip
    assert summary["pattern_verified"] is True
    names = [layer["name"] for layer in summary["layers"]]
    assert sum(attention in name for name in names) == 2
    assert all(layer["kept"] == pytest.approx(layer["target"]) for layer in summary["layers"])
    assert summary["macs_sparse"] == summary["macs_nominal"] or pruner == "magnitude"


def test_rerun_starts_over_and_leaves_foreign_files_alone(tmp_path):
    arguments = ("pruner=nm", "trainer.epochs=1", "trainer.max_steps_per_epoch=2")
    tiny(tmp_path, *arguments)
    (tmp_path / "notes.txt").write_text("mine")
    before = (tmp_path / "summary.json").stat().st_mtime_ns
    tiny(tmp_path, *arguments)
    assert (tmp_path / "summary.json").stat().st_mtime_ns == before  # finished: reported, not repeated
    tiny(tmp_path, "pruner=nm_step", *arguments[1:], "schedule.stop=0", "rerun=true")  # another configuration, too
    assert json.loads((tmp_path / "summary.json").read_text())["pruner"] == "nm_step"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_another_seed_gives_other_weights(block_run, tmp_path):
    directory, _ = block_run
    tiny(tmp_path, "pruner=nm_block", "schedule=linear", "seed=1", "trainer.probes=false")
    assert not same(final_state(directory)["model"], final_state(tmp_path)["model"])


def test_a_directory_of_another_run_is_refused_naming_what_differs(block_run):
    directory, _ = block_run
    with pytest.raises(ConfigError, match=r"pruner\.n: 1 there, 2 here; pruner\.pattern\.n: 1 there, 2 here"):
        tiny(directory, "pruner=nm_block", "schedule=linear", "pruner.n=2")
    with pytest.raises(ConfigError, match="seed: 0 there, 3 here"):
        tiny(directory, "pruner=nm_block", "schedule=linear", "seed=3")


def test_a_diverged_run_says_at_which_step_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(RunFailed, match=r"diverged: .* at step \d+ \(epoch \d\); a smaller optimizer.lr"):
        tiny(tmp_path, "optimizer.lr=1e25", "optimizer.warmup=3ep", "trainer.probes=false")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "diverged" in summary["reason"]
    for path in checkpoint.checkpoints(tmp_path / "checkpoints"):
        weights = torch.load(path, weights_only=True)["model"]
        assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())


def test_weights_that_are_no_numbers_never_reach_a_checkpoint(tmp_path):
    every_step = ("trainer.checkpoint_every=1it", "optimizer.warmup=0")
    with pytest.raises(RunFailed, match=r"diverged: .* holds numbers that are not finite at step 1 "):
        tiny(
            tmp_path, "optimizer.lr=1e10", "optimizer.weight_decay=1e38", *every_step
        )  # the first loss is finite, and its step is not
    assert not checkpoint.checkpoints(tmp_path / "checkpoints")
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_losses_that_are_measured_and_are_no_numbers_are_divergence(tmp_path):
    with pytest.raises(RunFailed, match="diverged: measured losses are not finite numbers"):
        tiny(tmp_path, "pruner=nm_mixed", "schedule.start=2it", "optimizer.lr=1e6", "optimizer.warmup=0")


def test_an_infinite_gradient_is_not_clipped_to_nothing():
    session = build_session(Plan.of(composed(*TINY, "pruner=nm", "trainer.clip_norm=1")))
    weight = next(session.model.parameters())
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = weight.detach().clone()
    with pytest.raises(RunFailed, match=r"diverged: the gradient's norm is (inf|nan) at step 0 "):
        train_step(session, *next(session.batches.epoch(0)))
    assert torch.equal(weight, before)


def test_a_layer_that_has_died_is_named(tmp_path):
    tiny(tmp_path / "first", "pruner=dense", "trainer.epochs=1")
    weights = torch.load(tmp_path / "first" / "checkpoints" / "final.pt", weights_only=True)
    for name in ("stages.1.0.conv1", "stages.1.0.conv2"):  # nothing goes in, nothing comes back: they stay zero
        weights["model"][f"{name}.weight"].zero_()
    weights["model"]["stages.1.0.bn1.bias"].zero_()
    torch.save(weights, tmp_path / "dead.pt")
    with pytest.raises(RunFailed, match=r"collapsed: .* every weight of stages.1.0.conv1, stages.1.0.conv2 to zero"):
        tiny(tmp_path / "second", "pruner=nm", f"model.checkpoint={tmp_path / 'dead.pt'}")
    assert "collapsed" in json.loads((tmp_path / "second" / "summary.json").read_text())["reason"]


def test_a_batch_larger_than_the_data_is_all_of_it_and_that_is_said(caplog):
    session = build_session(Plan.of(composed("data=fake", "data.num_train=24", "trainer.batch_size=64", "logger=none")))
    assert "trainer.batch_size=64: there are only 24 training images; all of them are one batch" in caplog.text
    assert [len(labels) for _, labels in session.batches.epoch(0)] == [24]


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("model", ["resnet8", "torchvision", "timm"])
def test_images_of_any_number_of_channels_train(channels, model):
    small = ("data=fake", "data.size=16", "data.num_train=8", "data.num_eval=4", "trainer.batch_size=4", "logger=none")
    session = build_session(Plan.of(composed(f"model={model}", f"data.channels={channels}", "pruner=nm", *small)))
    session.model.train()
    train_step(session, *next(session.batches.epoch(0)))
    assert math.isfinite(session.losses[0])


# Losses of the first ten steps, written by `PYTHONPATH=tests python tests/runs/test_run.py`; other processors differ in
# the last bits.
LOSSES = ROOT / "tests" / "losses.json"
ARMS = {
    name: arguments.split()
    for name, arguments in yaml.safe_load((ROOT / "tests" / "arms.yaml").read_text())["losses"].items()
}


def first_losses(*overrides):
    short = (*TINY, "trainer.max_steps_per_epoch=10", "trainer.epochs=1", "trainer.probes=false")
    session = build_session(Plan.of(composed(*short, *overrides)))
    session.model.train()
    losses, total = [], 0.0
    for images, labels in session.batches.epoch(0):
        train_step(session, images, labels)
        losses.append((session.totals["loss"] - total) / len(labels))
        total = session.totals["loss"]
    return losses


@pytest.mark.parametrize("arm", ARMS)
def test_losses_are_those_on_record(arm):
    assert first_losses(*ARMS[arm]) == pytest.approx(json.loads(LOSSES.read_text())[arm], abs=1e-2)


if __name__ == "__main__":
    LOSSES.write_text(json.dumps({arm: first_losses(*overrides) for arm, overrides in ARMS.items()}, indent=1) + "\n")


def test_a_pilot_leaves_the_test_images_unseen(tmp_path):
    """With final_images=validation the result is that of the last epoch on validation images; it is another run."""
    summary = tiny(tmp_path, "pruner=dense", "trainer.final_images=validation")
    assert summary["top1"] == summary["val_top1"]
    assert summary["final_images"] == "validation"
    assert "top-1 / top-5 (validation)" in dict(result_lines(summary))
    assert summary["config_hash"] != Plan.of(composed(*TINY, "pruner=dense")).hash
