"""The layout's promises: what imports what."""

import subprocess
import sys

import pytest

from midstate.common.project import ROOT


def imported_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_algebra_imports_torch_and_nothing_of_the_rest():
    modules = imported_by("midstate.sparsity")
    assert not {"hydra", "omegaconf", "wandb", "sklearn", "scipy", "timm", "torchvision", "matplotlib"} & modules
    assert {m for m in modules if m.startswith("midstate.")} == {
        m for m in modules if m.startswith(("midstate.sparsity", "midstate.common"))
    }


def test_the_command_line_imports_nothing_heavy():
    assert not {"torch", "wandb", "sklearn", "scipy", "timm", "matplotlib", "numpy"} & imported_by("midstate.cli")


def test_the_package_brings_prune_along_only_when_it_is_asked_for():
    assert not {"torch", "hydra", "omegaconf", "numpy"} & imported_by("midstate")
    code = "import sys; from midstate import prune; assert 'torch' in sys.modules and 'wandb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_run_imports_nothing_that_it_does_not_need(tmp_path):
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print(*sys.modules)); "
        f"sys.path[0], sys.argv = {str(ROOT)!r}, ['train.py', 'debug=fast', 'machine.live_figures=true']; "
        "runpy.run_path(sys.path[0] + '/train.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    modules = set(done.stdout.splitlines()[-1].split())
    assert {"torch", "matplotlib"} <= modules
    # torch's compiler takes half as long as torch itself; the others up to a second each.
    others = {"torch._dynamo", "torch._inductor", "sympy", "torchvision", "timm", "sklearn", "pandas", "scipy.stats"}
    assert not {*others, "wandb", "mlxtend", "triton.language"} & modules
