"""Every command of README.md and docs/ does what its page says, in the order of the page, in a fresh copy."""

import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
from conftest import ROOT, forks, write_mnist
from pages import PAGES, commands, first, shown_files, small, small_reproduction, typed
from PIL import Image

# What is not run, and why. Where it has settings of `train.py`, they are composed.
NOT_RUN = {
    "pip install *": "tests/system/test_install.py",
    "pytest*": "the suite itself",
    "torchrun *": "needs GPUs, or several machines; tests/distributed/test_processes.py",
    "srun *": "needs Slurm",
    "scontrol *": "needs Slurm",
    "wandb *": "needs the network and an account; tests/system/test_sweeps.py",
    "* data=cifar10 *": "fetches CIFAR-10",
    "* experiment=paper/sfp*": "fetches CIFAR-10; tests/system/test_papers.py",
    "* experiment=paper/sr_ste*": "a minute for ResNet-50 and 1,000 classes; tests/system/test_papers.py",
    "* launcher=slurm *": "needs Slurm; tests/system/test_launchers.py",
    "* launcher=slurm_local": "tests/system/test_launchers.py",
    "* launcher=ray *": "tests/system/test_launchers.py",
    "*reproduce.py --scale *": "needs Fashion-MNIST, and hours; tests/study/test_planning.py plans it",
    "*reproduce.py --edition first --only C8,C10": "the line after runs C10",
    "*reproduce.py --verify": "half a minute; tests/study/test_verification.py",
    "*reproduce.py --report": "the line after it does the same, and writes README.md",
    "*reproduce.py * --arms *": "takes hours; tests/system/test_reproduce.py",
    "*export.py * --format onnx*": "needs the extra `export`; tests/runs/test_export.py",
    "*bench.py *": "measures this machine for minutes; tests/scripts/test_bench.py",
    "*benchmarks.gpu *": "takes minutes; tests/scripts/test_gpu_suite.py",
    "*faults.py *": "takes an hour; tests/system/test_faults.py",
}
COPIED = ("conf", "docs", "results", "scripts", "src", "README.md", "train.py")


def test_what_is_not_run_is_on_a_page(tmp_path):
    on_pages = [" ".join(words) for page in PAGES for words in typed(commands(page), tmp_path, lambda *_: 0)]
    assert len(on_pages) > 80
    for pattern in NOT_RUN:
        assert any(fnmatchcase(each, pattern) for each in on_pages), pattern


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_CACHE", "hub")  # in the page's folder; read when the libraries are imported
        environment.setenv("HF_HUB_OFFLINE", "1")
        with forks(tmp_path_factory.mktemp("output"), "sklearn.datasets", "scipy.stats", "timm") as run:
            yield run


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of(page, run, tmp_path):
    failed = []

    def answer(words: list[str], environment: dict[str, str]) -> int:
        environment["PYTHONPATH"] = _search_path(tmp_path, environment)
        arguments = _arguments(words)
        if arguments is None:
            return 0
        done = run(*arguments, cwd=tmp_path, env=environment)
        if done.returncode:
            failed.append((" ".join(words), arguments, done.returncode, (done.stdout + done.stderr)[-2000:]))
        return done.returncode

    _fresh_copy(page, tmp_path)
    assert all(typed(commands(page), tmp_path, answer))
    assert not failed, "\n\n".join(f"{line}\n{used}\nstatus {status}: {said}" for line, used, status, said in failed)


def _search_path(place: Path, environment: dict[str, str]) -> str:
    given = os.environ.get("PYTHONPATH")
    own = [each for each in [environment.get("PYTHONPATH")] if each and each != given]
    return os.pathsep.join([str(place / "src"), *own])


def _arguments(words: list[str]) -> list[str] | None:
    """What is run in the place of a command, if anything."""
    skipped = any(fnmatchcase(" ".join(words), pattern) for pattern in NOT_RUN)
    if skipped and "train.py" not in words:
        return None
    if skipped:
        settings = words[words.index("train.py") + 1 :]
        return ["train.py", *(first(each, 1) for each in settings if each != "-m"), "--cfg", "job"]
    program, *arguments = words
    assert program == "python", " ".join(words)
    if arguments[0] == "train.py":
        return ["train.py", *small(arguments[1:])]
    if arguments[0] == "scripts/reproduce.py":
        return [arguments[0], *small_reproduction(arguments[1:])]
    return arguments


def _fresh_copy(page: Path, place: Path) -> None:
    """A clone, and what the reader has of their own."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place / name)
    for name, text in shown_files(page).items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if own := OWN.get(page.name):
        own(place)


def _of_claims(place: Path) -> None:
    """The claim that the page lets one write, and the data it asks for."""
    claim = (place / "conf" / "claim" / "c5.yaml").read_text()
    (place / "conf" / "claim" / "c16.yaml").write_text(claim.replace("claim: C5", "claim: C16"))
    _of_preregistration(place)


def _of_preregistration(place: Path) -> None:
    write_mnist(place / "data")


def _of_extending(place: Path) -> None:
    for name, text in shown_files(ROOT / "README.md").items():
        (place / name).write_text(text)


def _of_scale(place: Path) -> None:
    """Photographs, and weights in the cache of timm's library."""
    _images(place / "photos", ["cat", "dog", "owl"], train=12, val=4)
    cached = place / "hub" / "models--timm--convnext_atto.d2_in1k"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    weights = timm.create_model("convnext_atto", num_classes=1000).state_dict()
    safetensors.torch.save_file(weights, cached / "snapshots" / "abc" / "model.safetensors")


def _of_sweeps(place: Path) -> None:
    pair = place / "mine" / "experiment"
    (pair / "two_of_eight.yaml").write_text((pair / "one_of_four.yaml").read_text().replace("1, m: 4", "2, m: 8"))


def _images(root: Path, classes: list[str], **splits: int) -> None:
    draws = np.random.default_rng(0)
    for folder in (root / split / each for split in splits for each in classes):
        folder.mkdir(parents=True)
        for index in range(splits[folder.parent.name]):
            Image.fromarray(draws.integers(0, 256, (40, 36, 3), np.uint8)).save(folder / f"{index}.jpg")


OWN: dict[str, Callable[[Path], None]] = {
    "claims.md": _of_claims,
    "extending.md": _of_extending,
    "preregistration.md": _of_preregistration,
    "scale.md": _of_scale,
    "sweeps.md": _of_sweeps,
}
