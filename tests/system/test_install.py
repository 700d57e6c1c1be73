"""The package as it is installed: from a copy, without the checkout."""

import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    source = ROOT / "src"
    present = {".".join(path.parent.relative_to(source).parts) for path in source.glob("midstate/**/__init__.py")}
    assert set(listed) == {"midstate.conf", *present}


@pytest.mark.slow
def test_a_copy_brings_its_members_along(tmp_path):
    source = tmp_path / "source"  # a build leaves files where it is made
    for name in ("src", "conf", "pyproject.toml", "README.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), str(source)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    code = "from midstate.config.compose import composed; print(composed('pruner=nm_block', 'model=resnet8').seed)"
    own = (
        "from midstate.own_loop.presets import choose; print(choose('asp', {'n': 1}, None, None, None).method.pattern)"
    )
    commands = ((["-m", "midstate.methods"], "`nm_block`"), (["-c", code], "0"), (["-c", own], "NM(n=1, m=4,"))
    for command, said in commands:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
