"""Narrower dense networks: as large as a budget allows, like a finished run, and never taken for the wide one."""

import json
import shutil
import sys
from itertools import pairwise

import pytest
import torch
from conftest import TINY, composed
from torch.utils.flop_counter import FlopCounterMode

from midstate.common.errors import ConfigError
from midstate.models import CifarResNet, Narrow, Timm, Torchvision, narrowed
from midstate.runs import checkpoint
from midstate.runs.files import read_config
from midstate.runs.plan import Plan
from midstate.runs.run import run

SHORT = (*TINY, "trainer.epochs=2", "trainer.max_steps_per_epoch=3", "trainer.probes=false")
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def size(model, match):
    """Counted by others than ours."""
    if match == "params":
        return sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(IMAGES)
    return counter.get_total_flops() // 2 // len(IMAGES)


def narrow(recipe, density, match):
    torch.manual_seed(1)
    wide = recipe.create(3, 10)
    made, found = narrowed(recipe, wide, Narrow(None, match, density), None, IMAGES, 10)
    torch.manual_seed(1)
    return wide, made.create(3, 10), found


def all_widths(widths):
    """What one factor makes of them, in small steps."""
    factors = [step / 5000 for step in range(5001)]
    return sorted({tuple(max(1, int(width * factor + 0.5)) for width in widths) for factor in factors})


@pytest.mark.parametrize("shortcut", ["conv", "pad"])
@pytest.mark.parametrize("match", ["params", "macs"])
@pytest.mark.parametrize("density", [0.05, 0.4])
def test_no_wider_network_of_one_factor_is_within_the_budget(density, match, shortcut):
    wide, made, found = narrow(CifarResNet([1, 1, 1], [16, 32, 64], shortcut), density, match)
    budget = density * size(wide, match)
    choices = all_widths([16, 32, 64])
    assert all(all(a <= b for a, b in zip(*pair, strict=True)) for pair in pairwise(choices))
    wider = choices[choices.index(tuple(found["widths"])) + 1]
    assert size(made, match) <= budget < size(CifarResNet([1, 1, 1], list(wider), shortcut).create(3, 10), match)
    # And its first weights are the recipe's own.
    torch.manual_seed(1)
    again = CifarResNet([1, 1, 1], found["widths"], shortcut).create(3, 10)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in made.state_dict().items())


def test_all_of_it_is_the_network_itself_and_too_little_is_refused():
    recipe = CifarResNet([1, 1, 1], [16, 32, 64], "conv")
    assert narrow(recipe, 1.0, "params")[2] == {"widths": [16, 32, 64]}
    with pytest.raises(ValueError, match=r"params: 7 are allowed, and .* model.widths=\[1,1,1\], has"):
        narrow(recipe, 1e-4, "params")


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        (Torchvision("resnet18", small_stem=True), "params"),
        (Torchvision("mobilenet_v2"), "macs"),
    ],
)
def test_networks_of_libraries_keep_the_first_channels(recipe, match):
    wide, made, found = narrow(recipe, 0.3, match)
    assert made.training
    assert 0.97 * 0.3 < size(made, match) / size(wide, match) <= 0.3
    assert 0.5 < found["share"] < 0.6  # both grow with its square
    before = wide.state_dict()
    for name, weight in made.named_parameters():
        assert torch.equal(weight, before[name][tuple(map(slice, weight.shape))]), name
    assert not any(buffer.any() for name, buffer in made.named_buffers() if name.endswith("mean"))
    assert made(IMAGES).shape == (2, 10)
    for name, layer in made.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            width = wide.get_submodule(name).out_channels
            assert layer.out_channels == max(1, int(width * found["share"] + 1e-9)), name


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (Timm("vit_tiny_patch16_224", arguments={"img_size": 16, "patch_size": 4, "depth": 1}), "cls_token"),
        (Torchvision("shufflenet_v2_x0_5"), ""),
    ],
)
def test_what_cannot_be_made_narrower_is_refused_in_one_message(recipe, why):
    with pytest.raises(ValueError, match=rf"^a narrower \w+ cannot be made here \(.*{why}.*\); give its own settings"):
        narrow(recipe, 0.5, "params")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A finished run, as it lies under outputs/."""
    directory = tmp_path_factory.mktemp("outputs") / "filter"
    run(composed(*SHORT, "pruner=filter", "pruner.sparsity=0.5", f"run_dir={directory / 'abc' / 'seed0'}"))
    return directory


def summary_of(directory):
    return json.loads((directory / "summary.json").read_text())


@pytest.mark.parametrize(("match", "counted"), [("params", "params_total"), ("macs", "macs_dense")])
def test_a_run_as_small_as_a_pruned_one(pruned, match, counted, tmp_path):
    like = (*SHORT, "pruner=dense_small", f"pruner.like={pruned}", f"pruner.match={match}")
    run(composed(*like, f"run_dir={tmp_path / 'run'}"))
    budget = summary_of(pruned / "abc" / "seed0")[f"{match}_sparse"]
    assert 0.9 * budget < summary_of(tmp_path / "run")[counted] <= budget
    widths = read_config(tmp_path / "run")["model"]["narrowed"]["widths"]
    assert read_config(tmp_path / "run")["model"]["widths"] == [16, 32, 64] > widths
    # It is the network of those widths to the last bit.
    run(composed(*SHORT, "pruner=dense", f"model.widths={widths}", f"run_dir={tmp_path / 'plain'}"))
    states = [torch.load(tmp_path / name / "checkpoints" / "final.pt")["model"] for name in ("run", "plain")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_run_larger_than_the_whole_network_is_no_measure(pruned, tmp_path):
    wide = (*SHORT, "pruner=dense_small", "model.widths=[4,8,16]", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match=r"its [\d,]+ params are more than the [\d,]+ of the whole network"):
        run(composed(*wide, f"pruner.like={pruned / 'abc' / 'seed0'}"))
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_not_counted_is_no_measure(pruned, tmp_path):
    shutil.copytree(pruned / "abc" / "seed0", tmp_path / "old")
    summary = summary_of(tmp_path / "old")
    del summary["params_sparse"]
    (tmp_path / "old" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match=r"old': its summary has no params_sparse; do that run again"):
        Plan.of(composed(*SHORT, "pruner=dense_small", f"pruner.like={tmp_path / 'old'}"))


def test_it_goes_on_after_an_interruption_and_only_as_it_began(pruned, tmp_path):
    shutil.copytree(pruned, tmp_path / "filter")
    like = (*SHORT, "pruner=dense_small", f"pruner.like={tmp_path / 'filter'}", f"run_dir={tmp_path / 'run'}")
    run(composed(*like, "trainer.checkpoint_every=2it"))
    whole = torch.load(tmp_path / "run" / "checkpoints" / "final.pt")["model"]
    for path in (checkpoint.checkpoints(tmp_path / "run" / "checkpoints")[-1], tmp_path / "run" / "summary.json"):
        path.unlink()
    run(composed(*like))
    resumed = torch.load(tmp_path / "run" / "checkpoints" / "final.pt")["model"]
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    (tmp_path / "run" / "summary.json").unlink()
    summary = summary_of(tmp_path / "filter" / "abc" / "seed0") | {"params_sparse": 9000}
    (tmp_path / "filter" / "abc" / "seed0" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match=r"this run began with .*; that run must have been made anew since"):
        run(composed(*like))


def test_which_run_it_is_like_is_its_identity_and_not_where_that_lies(pruned, tmp_path):
    shutil.copytree(pruned, tmp_path / "elsewhere")
    run_directory = pruned / "abc" / "seed0"
    places = (pruned, pruned / "abc", run_directory, run_directory / "summary.json", tmp_path / "elsewhere")
    plans = [Plan.of(composed(*SHORT, "pruner=dense_small", f"pruner.like={place}")) for place in places]
    assert len({plan.hash for plan in plans}) == 1
    assert plans[0].config["pruner"]["like_of"] == summary_of(run_directory)["config_hash"]
    others = (f"pruner.like={pruned}", "pruner.match=macs"), ("pruner.density=0.4",), ("pruner.density=0.5",)
    others = [Plan.of(composed(*SHORT, "pruner=dense_small", *other)).hash for other in others]
    of_another_seed = Plan.of(composed(*SHORT, "pruner=dense_small", f"pruner.like={run_directory}", "seed=1"))
    assert of_another_seed.config["pruner"]["like_of"].endswith("-seed0")
    assert len({plans[0].hash, of_another_seed.hash, *others}) == 5


def test_it_is_not_taken_for_the_wide_network(tmp_path):
    run(composed(*SHORT, "pruner=dense_small", "pruner.density=0.3", f"run_dir={tmp_path / 'small' / 'abc' / 'seed0'}"))
    widths = read_config(tmp_path / "small" / "abc" / "seed0")["model"]["narrowed"]["widths"]
    small = f"{tmp_path / 'small'}"
    for wide in (("pruner=nm", f"model.checkpoint={small}"), ("pruner=dense_small", f"pruner.like={small}")):
        with pytest.raises(ConfigError, match="holds no finished runs of seed 0 with this network and data"):
            Plan.of(composed(*SHORT, *wide))
    written = f"model.widths={widths}".replace(" ", "")
    plan = Plan.of(composed(*SHORT, "pruner=filter", f"model.checkpoint={small}", written))
    assert plan.checkpoint.is_file()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "pruner.like=RUN .* and pruner.density=SHARE .* is needed, and none given"),
        ("pruner.density=0.4 pruner.like=x", "is needed, and both given"),
        ("pruner.density=0", "pruner.density=0: must be above 0"),
        ("pruner.density=1.5", "pruner.density=1.5: must be a number from 0 to 1"),
        ("pruner.density=0.5 pruner.match=flops", "pruner.match='flops': must be one of params, macs"),
        ("pruner.like=nowhere", "pruner: like='nowhere': no such file or directory"),
        ("pruner.like=tests/scheme.json", "holds no summary of a finished run"),
        ("pruner.density=0.5 model.checkpoint=x", "model.checkpoint=x: a narrower network has no trained weights"),
        (
            "pruner.density=0.5 model=resnet50 model.pretrained=true",
            "model.pretrained=True: a narrower network has no trained weights",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(typed, message):
    with pytest.raises(ConfigError, match=message):
        Plan.of(composed("pruner=dense_small", *typed.split()))


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)  # as python does it where a module is not there
    with pytest.raises(ConfigError, match=r"torch-pruning, which is not installed: pip install -e '.\[narrow\]'"):
        Plan.of(composed("pruner=dense_small", "pruner.density=0.5", "model=torchvision"))
    Plan.of(composed("pruner=dense_small", "pruner.density=0.5"))
