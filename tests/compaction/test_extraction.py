"""Extracted networks compute what the masked ones do, and have what the count said they would."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from copy import deepcopy

import pytest
import timm
import torch
import torchvision
from conftest import ROOT, TINY, composed
from torch import nn
from torch.nn.utils import parametrize

from extract import main
from midstate.compaction import counting
from midstate.compaction.exchangeable import exchangeable_channels
from midstate.compaction.extracting import extract
from midstate.compaction.observing import traced
from midstate.compaction.parts import Constants
from midstate.models import CifarResNet
from midstate.runs.directory import clear
from midstate.runs.run import run
from midstate.sparsity import weight_layers

OLD_RUN = ROOT / "tests" / "format_1"  # 1:16, with a weight in every filter


def counted(model, shape):
    layers = weight_layers(model)
    uses = counting.weight_uses(model, torch.zeros(2, *shape))
    return counting.count(model, layers, [1.0] * len(layers), False, uses, shape)


def used(model, seed=0):
    """A network as if trained: nothing is 0 or 1 by chance, so that whatever is left out shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.data.uniform_(-1, 1, generator=generator)
        if isinstance(module, nn.Conv2d | nn.Linear):
            scale = module.weight[0].numel() ** -0.5
            module.weight.data.normal_(0, scale, generator=generator)
    return model.eval()


def masked(model, share=0.4, seed=0):
    """With different random filters of every layer but the last at zero; one stays everywhere."""
    generator = torch.Generator().manual_seed(seed)
    for layer in weight_layers(model)[:-1]:
        dead = torch.rand(len(layer.weight), generator=generator) < share
        dead[int(torch.randint(len(dead), (1,), generator=generator))] = False
        layer.weight.data[dead] = 0
    return model


def assert_same(model, small, shape, tolerance=1e-4):
    images = torch.randn(3, *shape, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        expected, found = model(images), small(images)
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def assert_counts(model, small, shape):
    expected, found = counted(model, shape), counted(small, shape)
    assert found["params_nonzero"] == found["params_sparse"] == expected["params_sparse"]
    assert found["macs_sparse"] == expected["macs_sparse"]
    return found


def extracted(model, shape):
    """Cut, and checked against the network it was cut from."""
    before = deepcopy(model.state_dict())
    small = extract(model, shape)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert_same(model, small, shape)
    assert_counts(model, small, shape)
    return small


def test_constants_by_hand():
    """A filter that went left 0.5 behind; a padded 3x3 convolution reads it 4, 6 or 9 times."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1, bias=False)
    ).eval()
    first, norm, _, last = model
    first.weight.data = torch.tensor([2.0, 0.0]).view(2, 1, 1, 1)
    norm.running_var.fill_(1 - norm.eps)
    norm.bias.data = torch.tensor([0.0, 0.5])
    last.weight.data.fill_(1.0)
    small = extract(model, (1, 3, 4))
    assert [tuple(layer.weight.shape) for layer in weight_layers(small)] == [(1, 1, 1, 1), (1, 1, 3, 3)]
    images = torch.zeros(1, 1, 3, 4)
    images[0, 0, 0, 0] = 3.0  # relu(2 * 3) = 6 is read by the four outputs around it
    expected = torch.tensor([[2.0, 3, 3, 2], [3, 4.5, 4.5, 3], [2, 3, 3, 2]])
    expected[:2, :2] += 6
    torch.testing.assert_close(small(images)[0, 0], expected)
    wide = torch.tensor([2.0] + [3.0] * 5 + [2.0])  # images of any size
    torch.testing.assert_close(small(torch.zeros(1, 1, 5, 7))[0, 0], torch.stack([wide, *[1.5 * wide] * 3, wide]))


NETWORKS = {
    "resnet20_pad": lambda: CifarResNet([3] * 3, [16, 32, 64], "pad").create(3, 10),
    "resnet20_conv": lambda: CifarResNet([3] * 3, [16, 32, 64], "conv").create(3, 10),
    "plain": lambda: CifarResNet([2, 2], [16, 32], "none").create(3, 10),
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "resnext": lambda: torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, groups=8, width_per_group=4
    ),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10),
    "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_counts_are_those_of_the_masked_network(name):
    torch.manual_seed(0)
    model = masked(used(NETWORKS[name]()))
    small = extracted(model, (3, 32, 32))
    if name != "resnext":  # whose groups are filled up with zeros where they have kept different numbers
        assert sum(p.numel() for p in small.parameters()) == counted(model, (3, 32, 32))["params_sparse"]


def test_in_double_precision_nothing_but_rounding_is_left():
    torch.manual_seed(0)
    model = masked(used(NETWORKS["resnet20_pad"]())).double()
    small = extract(model, (3, 16, 16))
    assert_same(model, small, (3, 16, 16), 1e-12)
    assert_same(model, small, (3, 24, 12), 1e-12)  # its constants go with any size
    assert {p.dtype for p in small.parameters()} == {torch.float64}


def test_where_constants_vary_in_space_another_size_is_refused():
    torch.manual_seed(0)
    small = extract(masked(used(NETWORKS["mobilenet_v2"]())), (3, 32, 32))
    with pytest.raises(ValueError, match=r"\(3, 64, 64\): this network was extracted for images of \(3, 32, 32\)"):
        small(torch.zeros(1, 3, 64, 64))


def test_images_too_small_to_show_that_constants_vary_do_not_mislead():
    torch.manual_seed(0)
    depthwise = nn.Conv2d(2, 2, 3, padding=1, groups=2)
    model = used(nn.Sequential(nn.Conv2d(1, 2, 1), depthwise, nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1)))
    model[0].weight.data[1] = 0
    small = extracted(model, (1, 1, 1))
    with pytest.raises(ValueError, match="extract it for the other size"):
        small(torch.zeros(1, 1, 5, 5))


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
def test_channels_that_all_terms_of_a_residual_stream_have_lost_are_gone(shortcut):
    torch.manual_seed(0)
    model = used(CifarResNet([2, 2], [8, 16], shortcut).create(3, 10))
    for layer in (model.conv1, model.stages[0][0].conv2, model.stages[0][1].conv2):
        layer.weight.data[2:5] = 0
    model.stages[1][1].conv1.weight.data[:] = 0  # a branch that is dead from its first layer on
    small = extracted(model, (3, 16, 16))
    shapes = {layer.name: tuple(layer.weight.shape[:2]) for layer in weight_layers(small)}
    assert shapes["conv1"] == (5, 3)
    assert shapes["stages.0.0.conv1"] == (8, 5)
    assert not {"stages.1.1.conv1", "stages.1.1.conv2"} & set(shapes)
    model.stages[1][0].conv2.weight.data[:] = 0  # then nothing reads conv1; the count, which looks ahead only, has it
    smaller, lost = extract(model, (3, 16, 16)), small.get_submodule("stages.1.0.conv1").weight
    assert_same(model, smaller, (3, 16, 16))
    assert "stages.1.0.conv1" not in {layer.name for layer in weight_layers(smaller)}
    assert counted(smaller, (3, 16, 16))["params_sparse"] == counted(model, (3, 16, 16))["params_sparse"] - (
        lost.numel() + 2 * len(lost)  # and its BatchNorm
    )


class Odd(nn.Module):
    """What the usual networks lack: a layer called twice, groups, products, unknown functions, flattened maps."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, stride=1, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 3, padding="same", groups=2, bias=False)
        self.gate = nn.Linear(8, 8)
        self.mix = nn.GroupNorm(2, 16)
        self.last, self.head = nn.Conv2d(16, 4, 2, dilation=2), nn.Linear(4 * 4 * 4, 5)

    def forward(self, x):
        a, b = (self.shared(torch.relu(layer(x))) for layer in (self.a, self.b))
        b = self.norm(b) * torch.sigmoid(self.gate(b.mean((2, 3)))).unsqueeze(2).unsqueeze(3)
        x = self.mix(torch.cat([a, b], 1)).softmax(1)
        return self.head(nn.functional.leaky_relu(self.last(x)).view(x.size(0), -1))


@pytest.mark.parametrize("seed", range(3))
def test_anything_that_can_be_traced_is_extracted(seed):
    torch.manual_seed(seed)
    extracted(masked(used(Odd(), seed), 0.5, seed), (3, 6, 6))


def test_a_call_that_reads_nothing_that_lives_is_not_made():
    torch.manual_seed(0)
    model = masked(used(Odd()), 0.5)
    model.b.weight.data[:] = 0
    small = extract(model, (3, 6, 6))
    assert_same(model, small, (3, 6, 6))
    found, expected = counted(small, (3, 6, 6)), counted(model, (3, 6, 6))
    assert found["params_nonzero"] == expected["params_sparse"]
    shared = int(small.get_submodule("shared").weight.count_nonzero())
    assert found["macs_sparse"] == expected["macs_sparse"] - 6 * 6 * shared  # of which the count has both calls


def test_zeros_within_filters_stay_and_a_bias_of_zero_is_not_counted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 3)).eval()
    for layer in weight_layers(model):
        layer.module.bias.data.zero_()
    model[0].weight.data[1] = 0  # leaves sigmoid(0)
    model[2].weight.data[0, 0, 1] = 0
    small = extracted(model, (1, 6, 6))
    assert small.get_submodule("2").weight.count_nonzero() == 2 * 3 * 9 - 3
    assert not small.get_submodule("2").bias.any()


def test_it_is_a_module_like_others():
    torch.manual_seed(0)
    small = extract(masked(used(NETWORKS["resnet20_conv"]())), (3, 16, 16))
    again = pickle.loads(pickle.dumps(small))
    assert_same(small, again, (3, 16, 16), 0)
    for value in again.state_dict().values():
        value.zero_()
    again.load_state_dict(small.state_dict())
    assert_same(small, again, (3, 16, 16), 0)


class ReadTwice(nn.Module):
    """Two functions read the same dead channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.dead = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        dead = self.dead(x)
        a, b = torch.maximum(self.a(x), dead), torch.minimum(self.b(x), dead)
        return self.head((a + b).mean((2, 3)))


def test_a_constant_that_is_read_twice_is_stored_once():
    torch.manual_seed(0)
    model = used(ReadTwice())
    model.dead.weight.data.zero_()
    small = extracted(model, (3, 6, 6))
    assert [tuple(part.constants.shape) for part in small.modules() if isinstance(part, Constants)] == [(1, 4, 6, 6)]


class Sizes(nn.Module):
    """Asks how many channels there are, and joins what another function gives as one."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = torch.cat(tensors=[torch.cat(torch.chunk(x, 2, 1), 1)], dim=1)
        return self.head(x.mean((2, 3))) * x.size(-3) + x.mean((2, 3)).size(-1)


def test_how_many_channels_there_were_is_still_known():
    torch.manual_seed(0)
    extracted(masked(used(Sizes()), 0.5), (3, 6, 6))


class ByName(nn.Module):
    """Every layer is called by the name of its input."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        x = self.second(input=self.norm(input=self.first(input=x)).relu())
        return self.head(input=x.mean((2, 3)))


def test_inputs_may_be_passed_by_name():
    torch.manual_seed(0)
    model = masked(used(ByName()), 0.5)
    extracted(model, (3, 6, 6))
    assert exchangeable_channels(model, (3, 6, 6))[0].norms.keys() == {"norm"}


def test_layers_whose_weights_are_handed_to_a_function_are_counted():
    torch.manual_seed(0)
    swin = torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [2, 2], num_classes=10)
    extracted(masked(used(swin)), (3, 8, 8))


def test_convolutions_of_other_libraries_are_whole_and_counted():
    """As of tf_efficientnet: they look at the image's size, which torch.fx cannot."""
    torch.manual_seed(0)
    same = timm.layers.Conv2dSame(6, 4, 3, stride=2)
    model = masked(used(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), same, nn.Flatten(), nn.Linear(16, 5))), 0.5)
    small = extract(model, (3, 6, 6))
    assert_same(model, small, (3, 6, 6))
    whole, found = counted(model, (3, 6, 6)), counted(small, (3, 6, 6))
    assert small.get_submodule("2").weight.shape == (4, 6, 3, 3)
    assert found["params_nonzero"] > whole["params_sparse"]
    assert found["macs_sparse"] == whole["macs_sparse"]


class Branching(nn.Module):
    """Looks at its input's values."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


class Comparing(nn.Module):
    """Loses the dye on the way: the count takes for a constant what is none."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        return self.conv(x).amax((2, 3)) + (x > 0).float().mean((2, 3))


class InPlace(nn.Module):
    """Changes a value by a function after others have read it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        x = self.conv(x)
        return x + torch.sigmoid_(x)


class Between(nn.Module):
    """Calls `operator.and_`, whose name ends as those of functions in place do."""

    def forward(self, x):
        return x * ((x > 0) & (x < 1))


def test_operators_do_not_work_in_place():
    x = torch.randn(2, 3)
    assert traced(Between())(x).equal(Between()(x))


def emptied(model):
    weight_layers(model)[0].weight.data[:1] = 0
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 1)), "nothing to remove: every channel depends on the image"),
        (emptied(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 2, 1))), "the output no longer depends on the image"),
        (emptied(Branching()), "Branching cannot be extracted: torch.fx cannot trace it"),
        (emptied(Comparing()), "Comparing cannot be extracted: without its dead channels its outputs would differ"),
        (emptied(InPlace()), "InPlace cannot be extracted: sigmoid_ works in place"),
        (emptied(nn.Sequential(nn.Conv2d(3, 2, 1))), r"Sequential cannot be run on images of \(1, 4, 4\)"),
    ],
)
def test_what_cannot_be_extracted_is_refused_by_name(model, message):
    with pytest.raises(ValueError, match=message) as error:
        extract(model.eval(), (1, 4, 4))
    assert "\n" not in str(error.value)


def test_where_nothing_but_zeros_within_filters_could_go_it_is_refused():
    """The class token is the same for all images, and yet no layer gets smaller."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, depth=1, embed_dim=48, num_heads=3)
    for layer in weight_layers(model):
        layer.weight.data[:, 1::2] = 0
    with pytest.raises(ValueError, match="nothing to remove: every channel depends on the image"):
        extract(model.eval(), (3, 32, 32))


def test_attached_masks_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    with pytest.raises(ValueError, match="finalise the pruner first"):
        extract(model, (1, 4, 4))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A filter-pruned run, as it lies under outputs/."""
    directory = tmp_path_factory.mktemp("outputs") / "filter" / "abc" / "seed0"
    run(composed(*TINY, "trainer.epochs=1", "pruner=filter", "schedule=one_shot", f"run_dir={directory}"))
    return directory


@pytest.mark.slow
def test_a_finished_run_is_extracted_as_it_was_reported(finished):
    script = [sys.executable, str(ROOT / "scripts" / "extract.py"), str(finished), "--batch-size=7"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads((finished / "summary.json").read_text())
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    numbers = {name: (int(p.replace(",", "")), int(m.replace(",", ""))) for name, p, m in rows[2:]}
    assert numbers["dense"] == (summary["params_total"], summary["macs_dense"])
    assert numbers["masked, as reported"] == (summary["params_sparse"], summary["macs_sparse"])
    assert numbers["extracted, not zero"] == numbers["masked, as reported"]
    assert numbers["extracted, not zero"][0] < summary["params_nonzero"]
    file = finished / "checkpoints" / "extracted.pt2"
    assert done.stdout.endswith(f"written: {file}\n")
    model = CifarResNet([1, 1, 1], [16, 32, 64], "conv").create(1, 10).eval()
    model.load_state_dict(torch.load(finished / "checkpoints" / "final.pt", weights_only=True)["model"])
    small = torch.export.load(file).module()
    assert sum(p.numel() for p in small.parameters()) == numbers["extracted, as stored"][0]
    for batch in (1, 5):
        images = torch.randn(batch, 1, 16, 16)
        torch.testing.assert_close(small(images), model(images), rtol=1e-4, atol=1e-5)


def change(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: shutil.rmtree(run), "no such directory"),
        (lambda run: (run / "summary.json").unlink(), "is no finished run's"),
        (lambda run: (run / "summary.json").write_text("{"), "summary.json: cannot be read"),
        (lambda run: (run / "config.yaml").write_text("{"), "config.yaml: cannot be read"),
        (lambda run: (run / "config.yaml").write_text("model: {}"), "is no finished run's"),
        (lambda run: change(run / "summary.json", status="stopped"), r"this run is not finished \(stopped\)"),
        (lambda run: change(run / "summary.json", pattern_verified=None), "a dense run; nothing was pruned"),
        (lambda run: change(run / "summary.json", macs_sparse=5), "its summary says macs_sparse=5, its weights "),
        (lambda run: (run / "checkpoints" / "final.pt").unlink(), "final.pt: is not there"),
        (lambda run: (run / "checkpoints" / "final.pt").write_bytes(b"PK"), "cannot be read as weights"),
    ],
)
def test_what_is_no_finished_pruned_run_is_told_in_one_line(finished, tmp_path, harm, message, capsys):
    copied = shutil.copytree(finished, tmp_path / "run")
    harm(copied)
    assert main([str(copied)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert re.search(message, output.err), output.err


def test_starting_over_removes_what_was_extracted(finished, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "run")
    (copied / "checkpoints" / "extracted.pt2").touch()
    clear(copied)
    assert not list(copied.rglob("*.pt2"))


def test_nothing_dead_other_places_and_full_disks(finished, tmp_path, capsys):
    assert main([str(OLD_RUN)]) == 2
    assert "nothing to remove: every channel depends on the image" in capsys.readouterr().err
    assert main([str(finished.parent)]) == 2
    assert f"is no finished run's; runs below it: {finished}" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([str(finished), f"--output={tmp_path / 'file' / 'a.pt2'}"]) == 3
    assert "a.pt2: cannot be written (" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "checkpoints", "checkpoints/final.pt", "new/network", "a.pt2"])
def test_nothing_but_an_extracted_network_is_replaced(finished, tmp_path, name, capsys):
    copied = shutil.copytree(finished, tmp_path / "run")
    os.mkfifo(copied / "a.pt2")  # as /dev/null, no file that may be replaced
    before = {path: path.stat().st_ino for path in copied.rglob("*")}
    assert main([str(copied), f"--output={copied / name}"]) == 2
    assert re.search(r"--output=.*: must be a file whose name ends in \.pt2$", capsys.readouterr().err.strip())
    assert {path: path.stat().st_ino for path in copied.rglob("*")} == before
