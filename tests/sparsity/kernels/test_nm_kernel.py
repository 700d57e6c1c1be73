"""The GPU kernel, run by Triton's interpreter on the CPU: the same bits as the eager way."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.slow  # the interpreter is

MASKS = """
import torch
from midstate.sparsity import NM
from midstate.sparsity.kernels.triton_nm import TILE, fits, keep_largest_of_groups

torch.manual_seed(0)
for m in (2, 4, 6, 16, 32):
    several = TILE // (4 * m) + 5  # filters of more groups than one program takes
    shapes = ((8, 3 * m, 3, 3), (5, m), (several, 4 * m, 1, 1), (3, 2 * m, 5))
    for turn, ties in enumerate((False, True, False, True, False)):
        scores = [torch.randn(shape).abs() for shape in shapes]
        scores.append(torch.randn(4, 2 * m, 3, 3).abs().to(memory_format=torch.channels_last))
        scores[0][1] = -torch.inf
        if ties:
            scores = [(2 * score).round() for score in scores]
        levels = [1, m // 2, m - 1, 0, m]
        levels = levels[turn:] + levels[:turn]  # each shape and layout has each level
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            typed = [score.to(dtype) for score in scores]
            assert fits(typed, levels, m)
            masks, has_nan = keep_largest_of_groups(typed, levels, m)
            assert not has_nan
            for score, level, mask in zip(typed, levels, masks, strict=True):
                assert mask.equal(NM(1, m).mask(score, level)), (m, ties, dtype, score.shape)
                assert mask.stride() == score.stride()
    scores[1][-1, 0] = torch.nan
    assert keep_largest_of_groups(scores, levels, m)[1]
print("same")
"""

# A run of a few refreshes through the kernel, and the masks it ends with.
PRUNER = """
import torch, sys
from midstate import sparsity as s
from midstate.models import CifarResNet

torch.manual_seed(0)
model = CifarResNet([1, 1], [16, 32], "conv").create(1, 10)
path = {"direct": s.Direct(), "n": s.StepN(), "blocks": s.Blocks()}[sys.argv[1]]
method = s.Method(s.Scope(), s.NM(2, 8), s.L1(), s.Uniform(), path, s.Update(), s.SRSTE())
pruner = s.Pruner(model, method, s.Schedule("linear", 0, 0.8), 10, 10, classifier="classifier")
pruner.refresh(5)
print("triton" in sys.modules, [hash(tuple(mask.flatten().tolist())) for mask in pruner.masks])
pruner._weights[1].data[0, 0, 0, 0] = torch.nan
try:
    pruner.refresh(6)
except s.Unrankable as error:
    print(error)
"""


def interpreted(script, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_masks_are_those_of_the_eager_way():
    assert interpreted(MASKS, TRITON_INTERPRET="1") == "same\n"


@pytest.mark.parametrize("path", ["direct", "n", "blocks"])
def test_the_pruner_takes_the_kernel_where_there_is_one(path):
    eager = interpreted(PRUNER, path)
    fused = interpreted(PRUNER, path, TRITON_INTERPRET="1")
    assert fused.startswith("True ")
    assert eager.removeprefix("False ").removeprefix("True ") == fused.removeprefix("True ")
    assert "NaN" in fused


BROKEN = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from midstate.sparsity.kernels import triton_nm
def fail(*arguments):
    raise RuntimeError("no compiler")
triton_nm.keep_largest_of_groups = fail
sys.argv = ["-c", "blocks"]
exec(sys.stdin.read())
"""


def test_where_triton_does_not_work_masks_are_made_layer_by_layer_and_that_is_said_once():
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], input=PRUNER, env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    warning, *rest = done.stdout.splitlines()
    assert "Triton does not work here (no compiler)" in warning
    assert "\n".join(rest) == interpreted(PRUNER, "blocks", TRITON_INTERPRET="1").strip()


def test_what_the_kernel_does_not_take_is_said():
    done = interpreted(
        "import torch\n"
        "from midstate.sparsity.kernels.triton_nm import fits\n"
        "score = torch.rand(4, 16, 3, 3)\n"
        "print(fits([score], [1], 8), fits([score], [1], 6), fits([score], [torch.ones(4)], 8),"
        " fits([score.double()], [1], 8), fits([score.transpose(0, 1)], [1], 4))\n"
    )
    assert done == "True False False False False\n"
