"""The layout's promises: what imports what."""

import subprocess
import sys


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
