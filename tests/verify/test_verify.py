"""python -m midstate.verify: which pattern, along which axis; files of every format; what is no checkpoint."""

import argparse
import json
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from midstate.verify.__main__ import main
from midstate.verify.groups import ELEMENTS, most_non_zeros
from midstate.verify.judging import SIZES, judged

RUN = ROOT / "tests" / "format_1" / "checkpoints" / "final.pt"  # 1:16, all but the first layer and the classifier


def pruned(n, m, *shape, dim=1, seed=0):
    """Random weights, the n largest of m neighbours along one axis."""
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.1
    groups = weight.transpose(dim, -1).unflatten(-1, (-1, m))
    groups = groups * torch.zeros_like(groups).scatter_(-1, groups.topk(n, -1).indices, 1.0)
    return groups.flatten(-2).transpose(dim, -1).contiguous()


def flat(n, m, *shape):
    return pruned(n, m, shape[0], torch.Size(shape[1:]).numel()).view(shape)


def layers(path, asked=None):
    return {each.name: each for each in judged(path, asked).layers}


def only(tmp_path, weight, asked=None):
    torch.save({"a.weight": weight}, tmp_path / "a.pt")
    return layers(tmp_path / "a.pt", asked)["a.weight"]


@pytest.mark.parametrize(
    ("weight", "pattern", "along"),
    [
        (pruned(2, 4, 24, 64), (2, 4), ["input"]),
        (pruned(2, 4, 64, 24, dim=0), (2, 4), ["output"]),
        (pruned(1, 16, 8, 32, 3, 3), (1, 16), ["input"]),
        (pruned(2, 8, 8, 32, 5), (2, 8), ["input"]),
        (pruned(3, 4, 6, 12, 3, 3, 3), (3, 4), ["input"]),
        (flat(2, 4, 40, 12, 3, 3), (2, 4), ["flattened"]),
        (flat(4, 8, 40, 1, 4, 4), (4, 8), ["flattened"]),  # depthwise: there is one input channel
        (pruned(1, 4, 16, 6, 3, 3, dim=0), (1, 4), ["output"]),
        (pruned(8, 32, 64, 96), (8, 32), ["input"]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_the_tightest_pattern_and_its_axis(tmp_path, weight, pattern, along, dtype):
    found = only(tmp_path, weight.to(dtype))
    assert (found.pattern, found.along, found.verdict) == (pattern, along, "obeys")
    assert found.density == pytest.approx(pattern[0] / pattern[1])
    assert only(tmp_path, weight.to(dtype), pattern).along == along
    if 2 * pattern[0] < pattern[1]:  # what is tighter is looser, too
        assert along[0] in only(tmp_path, weight, (2 * pattern[0], pattern[1])).along


def test_of_equally_tight_patterns_the_smallest_groups_are_named(tmp_path):
    alternating = torch.tensor([1.0, 0.0] * 16).repeat(5, 1)
    assert only(tmp_path, alternating).pattern == (1, 2)
    wide = torch.tensor([1.0, 1.0, 0.0, 0.0] * 8).repeat(5, 1)
    assert only(tmp_path, wide).pattern == (2, 4)


def test_the_last_group_of_an_axis_that_m_does_not_divide(tmp_path):
    weight = torch.cat([pruned(2, 4, 9, 8), torch.ones(9, 2)], 1)
    assert only(tmp_path, weight, (2, 4)).along == ["input"]
    assert only(tmp_path, torch.cat([weight, torch.ones(9, 1)], 1), (2, 4)).verdict == "neither"
    short = torch.tensor([[1.0, 0.0, 1.0]] * 3)  # no whole group of 4: not 2:4 by being short
    assert only(tmp_path, short, (2, 4)).verdict == "neither"


def test_slices_are_added_up(tmp_path):
    """Groups along the outputs do not end where a slice does; the one wrong group is at the end."""
    rows = 3 * ELEMENTS // 4096 + 32
    weight = pruned(2, 4, rows, 4096, dim=0).half()
    most, non_zeros = most_non_zeros([weight], SIZES)
    assert most["output"][4] == 2
    assert non_zeros == weight.numel() // 2
    weight[-4:, -1] = 1
    assert most_non_zeros([weight], SIZES)[0]["output"][4] == 4


def test_any_m_can_be_asked_for(tmp_path):
    assert only(tmp_path, pruned(2, 6, 7, 36), (2, 6)).along == ["input"]
    assert only(tmp_path, pruned(300, 600, 3, 1200), (300, 600)).along == ["input"]
    assert only(tmp_path, pruned(301, 600, 3, 1200), (300, 600)).verdict == "neither"


def test_zero_layers_and_single_zeros(tmp_path):
    torch.manual_seed(0)
    state = {"empty.weight": torch.zeros(8, 8), "dense.weight": torch.rand(200, 100) + 1, "bias": torch.zeros(9)}
    state["dense.weight"][3, 5] = 0  # by chance
    state |= {
        "some.weight": torch.rand(64, 64) + 1,
        "pos_embed": torch.zeros(1, 9, 4),
        "steps": torch.zeros(3, 3).int(),
    }
    state["some.weight"][:7] = 0
    save_file(state, tmp_path / "a.safetensors")
    verdict = judged(tmp_path / "a.safetensors")
    assert {each.name: each.verdict for each in verdict.layers} == {
        "dense.weight": "dense", "empty.weight": "empty", "some.weight": "neither",
    }  # fmt: skip
    assert verdict.status(False) == 1


MOMENTUM = {"state": {0: {"exp_avg": torch.ones(4, 4)}}}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"args": argparse.Namespace(lr=1), "model": state, "optimizer": MOMENTUM},
        lambda state: {"netG": state, "netD": state},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_names_in_any_dict(tmp_path, wrapped, prefix):
    torch.save(wrapped({f"{prefix}fc.weight": pruned(2, 4, 8, 16)}), tmp_path / "a.pt")
    names = [name.removeprefix("netG.").removeprefix("netD.") for name in layers(tmp_path / "a.pt")]
    assert set(names) == {"fc.weight"}
    assert judged(tmp_path / "a.pt", (2, 4)).status(True) == 0


def test_masks_beside_weights(tmp_path):
    """Masks of torch's pruning and of a run that goes on are applied, as their networks do; others are only named."""
    linear = nn.Linear(16, 8)
    prune.custom_from_mask(linear, "weight", (pruned(1, 4, 8, 16) != 0).float())
    hidden = {"b.parametrizations.weight.original": torch.ones(8, 16)}
    hidden["b.parametrizations.weight.0.mask"] = pruned(1, 8, 8, 16) != 0
    other = {"c.weight": torch.ones(8, 16), "c.weight_mma_mask": pruned(2, 4, 8, 16) != 0}
    torch.save(
        {**{f"a.{name}": each for name, each in linear.state_dict().items()}, **hidden, **other}, tmp_path / "a.pt"
    )
    verdict = judged(tmp_path / "a.pt")
    found = {each.name: (each.verdict, each.pattern) for each in verdict.layers}
    assert found == {"a.weight": ("obeys", (1, 4)), "b.weight": ("obeys", (1, 8)), "c.weight": ("dense", None)}
    assert verdict.masks == ["c.weight_mma_mask"]


def test_a_program_of_torch_export(tmp_path):
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 8)).bfloat16()
    model[0].weight.data = pruned(1, 4, 16, 8, 3, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    program = torch.export.export(model, (torch.zeros(2, 8, 4, 4, dtype=torch.bfloat16),))
    torch.export.save(program, tmp_path / "a.pt2")
    found = layers(tmp_path / "a.pt2")
    assert [(each.name, each.shape, each.pattern) for each in found.values()] == [
        ("0.weight", (16, 8, 3, 3), (1, 4)), ("2.weight", (8, 64), None),
    ]  # fmt: skip
    assert found["0.weight"].along == ["input"]


def test_the_command_on_a_run(capsys):
    assert main([str(RUN)]) == 0
    told = capsys.readouterr().out
    assert "1:16 along input: 8 layers" in told
    assert "dense (at most 0.1 % zeros): 2 layers: conv1.weight, classifier.weight" in told
    assert told.splitlines()[-1] == "yes: 8 layers of 10 in a pattern, and every other is dense"
    assert main([str(RUN), "--pattern", "1:16"]) == main([str(RUN), "--pattern", "2:16"]) == 0
    assert main([str(RUN), "--all"]) == main([str(RUN), "--pattern", "1:32"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "no: none of 10 layers is in 1:32"
    with pytest.raises(SystemExit, match="2"):
        main([str(RUN), "--pattern", "4:2"])


def test_empty_layers_are_told(tmp_path, capsys):
    torch.save({"a.weight": pruned(2, 4, 8, 16), "b.weight": torch.zeros(8, 16)}, tmp_path / "a.pt")
    assert main([str(tmp_path / "a.pt")]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == "yes: 1 layer of 2 in a pattern, and every other is dense or empty"


def test_json(capsys):
    assert main([str(RUN), "--json", "--pattern", "1:16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["obeys"]), found["dense"]) == (8, ["conv1.weight", "classifier.weight"])
    assert found["layers"][1]["axes"] == {"input": "1:16"}


def test_a_program_of_an_older_torch_export(tmp_path):
    torch.save({"a.weight": pruned(2, 4, 8, 8)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "b.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", (tmp_path / "a.pt").read_bytes())
    assert layers(tmp_path / "b.pt2")["a.weight"].pattern == (2, 4)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("# a text"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
        lambda path: path.write_bytes((9).to_bytes(8, "little") + b'{"a": 3333333333333'),
        lambda path: torch.save({"loss": 3.0}, path),
        lambda path: torch.save(nn.Linear(4, 4), path),
        lambda path: torch.save(Bomb(), path),
        lambda path: torch.jit.script(nn.Linear(4, 4)).save(path),
        lambda path: path.mkdir(),
        lambda path: None,
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_checkpoint(tmp_path, capsys, write):
    write(tmp_path / "a.pt")
    assert main([str(tmp_path / "a.pt")]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert len(told.err.splitlines()) == 1


def test_code_beside_the_weights_is_not_run(tmp_path):
    torch.save({"hook": Bomb(), "model": {"a.weight": pruned(2, 4, 8, 8)}}, tmp_path / "a.pt")
    assert layers(tmp_path / "a.pt")["a.weight"].pattern == (2, 4)
    torch.save({"a.weight": pruned(2, 4, 8, 8)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    assert layers(tmp_path / "b.pt")["a.weight"].pattern == (2, 4)


@pytest.mark.slow
def test_memory_is_bounded_and_nothing_else_is_imported(tmp_path):
    """200 MB are checked within 100 MB more than torch takes by itself."""
    save_file({f"{i}.weight": pruned(2, 4, 2500, 4000) for i in range(5)}, tmp_path / "a.safetensors")
    torch.save({"a.weight": pruned(2, 4, 2500, 20000)}, tmp_path / "b.pt")
    code = (
        "import resource, sys, torch; from midstate.verify.__main__ import main\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "status = sum(main([path, '--json']) for path in sys.argv[1:])\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "loaded = {'hydra', 'omegaconf', 'wandb', 'timm', 'torchvision', 'midstate.sparsity'} & {*sys.modules}\n"
        "sys.exit(f'{status} {loaded}' if status or loaded or after - before > 100_000 else 0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.safetensors"), str(tmp_path / "b.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
