"""Helpers: a run in this process, and a run as a user starts it."""

import csv
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra_cache
import numpy as np
import pytest
import torch
from PIL import Image

from midstate.config.compose import composed
from midstate.runs.checkpoint import checkpoints, digest

__all__ = [
    "ALONE",
    "ROOT",
    "TINY",
    "Tree",
    "assert_checkpoints_whole",
    "begin",
    "composed",
    "forks",
    "idx",
    "start",
    "wait_for",
    "write_mnist",
]

ROOT = Path(__file__).parents[1]
hydra_cache.install()
os.environ.setdefault("MATPLOTLIBRC", str(ROOT / "tests" / "matplotlibrc"))  # of the processes, too

# A real run of about a second: real digits, four epochs of six steps. Probes and figures take longer than all else: who
# looks at them asks for trainer.probes=true, machine.figures=true.
TINY = (
    "data.train_placements=1",
    "data.eval_placements=1",
    "trainer.epochs=4",
    "trainer.max_steps_per_epoch=6",
    "trainer.probes=false",
    "machine.figures=false",
    "logger=none",
)

# What an interpreter reads when it begins.
FRESH = {"PATH", "PYTHONPATH", "PYTHONIOENCODING", "LC_ALL", "PYTHONUTF8"}

# What a preset is to be given to run by itself, where no trained weights lie about.
ALONE = {"asp": ("trainer.mode=train", "schedule.start=0.5"), "domino": ("trainer.mode=train",)}


def tiny(directory: Path, *overrides: str) -> dict[str, Any]:
    """Do a run of about a second in this process, and return its summary."""
    from midstate.runs.run import run  # not every test imports a whole run

    run(composed(*TINY, f"run_dir={directory}", *overrides))
    return json.loads((directory / "summary.json").read_text())


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@contextmanager
def forks(place: Path, *imported: str) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """Run Python commands in processes forked from one that has imported the libraries and these modules already."""
    command = [sys.executable, str(ROOT / "tests" / "fork_server.py"), *imported]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def run(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess:
            files = [place / name for name in ("out", "err")]
            for file in files:
                file.write_text("")
            request = {"arguments": arguments, "cwd": str(cwd), "environment": env}
            print(json.dumps({**request, "out": str(files[0]), "err": str(files[1])}), file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            return subprocess.CompletedProcess(arguments, status, *(file.read_text() for file in files))

        yield run


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """Run `train.py` in a process that is forked from one which has imported all of it already."""
    with forks(tmp_path_factory.mktemp("output"), "midstate.runs.run", "midstate.runs.figures") as run:
        yield lambda *overrides, **where: run(str(ROOT / "train.py"), *overrides, **where)


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess]:
    """Run `train.py` in a process of its own, in an empty directory.

    Sweeps, other search paths and other encodings depend on how the interpreter begins, and --help on what it imports:
    they have a fresh one. Others are forked.
    """

    def run(*overrides: str, **environment: str) -> subprocess.CompletedProcess:
        env = {**os.environ, **environment}
        if not {"-m", "--help"} & {*overrides} and not FRESH & {*environment}:
            return request.getfixturevalue("fork")(*overrides, cwd=tmp_path, env=env)
        command = [sys.executable, str(ROOT / "train.py"), *overrides]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in folders: three classes that colour tells apart, 12 training and 5 test images each, of many sizes."""
    root, draws = tmp_path / "images", np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for name, colour in (("blue", (30, 30, 200)), ("green", (30, 200, 30)), ("red", (200, 30, 30))):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                noisy = draws.normal(0, 20, (40 + index, 60 - index, 3)) + colour
                image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                image.save(root / split / name / f"{index:02}.jpg")
    (root / "train/red/00.jpg").unlink()
    image.convert("RGBA").save(root / "train/red/00.png")
    Image.open(root / "train/red/01.jpg").convert("L").save(root / "train/red/01.jpg")
    return root


def idx(values: torch.Tensor) -> bytes:
    """Bytes of an idx file."""
    return struct.pack(f">{values.dim() + 1}i", 0x800 + values.dim(), *values.shape) + values.numpy().tobytes()


def write_mnist(folder: Path, packed: bool = False, num_train: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the four files of MNIST's family with random images, each once; return those for training."""
    folder.mkdir(parents=True, exist_ok=True)
    draws, written = torch.Generator().manual_seed(0), []
    for part, count in (("train", num_train), ("t10k", 30)):
        images = torch.randint(0, 256, (count, 28, 28), generator=draws).to(torch.uint8)
        labels = (torch.arange(count) % 10).to(torch.uint8)
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            data = idx(values)
            (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(data) if packed else data)
        written += [images, labels]
    return written[0], written[1]


def begin(place: Path, *overrides: str, before: Sequence[str] = (), **options: Any) -> subprocess.Popen:
    """Start `train.py` in `place` and leave it at work; `before` stands in front of the command."""
    command = [*before, sys.executable, str(ROOT / "train.py"), *overrides]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for(process: subprocess.Popen, happened: Callable[[], object]) -> None:
    """Wait until something has happened, while the process is at work."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_checkpoints_whole(directory: Path) -> None:
    """Every checkpoint of a run is what was written."""
    for path in checkpoints(directory / "checkpoints"):
        state = torch.load(path, weights_only=True)
        state.pop("format")
        assert state.pop("digest") == digest(state)


torch.set_num_threads(1)  # fixtures of modules come before those of tests


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # again, where a run has set another number


_PLAN = """
import json, sys
from midstate.config.compose import composed
from midstate.config.explain import explain, is_users
from midstate.runs.plan import Plan
for overrides in json.loads(sys.argv.pop()):
    try:
        print(Plan.of(composed(*overrides)).hash)
    except Exception as error:
        print(is_users(error), explain(error))
"""


class Tree:
    """The project, with files of a user's own."""

    def __init__(self, root):
        self.root = root
        shutil.copy(ROOT / "train.py", root)
        for name in ("conf", "src"):
            (root / name).symlink_to(ROOT / name)

    def write(self, files):
        for name, text in files.items():
            path = self.root / "local" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def python(self, *arguments, **environment):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": f"{self.root / 'src'}:{self.root / 'mine'}", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def plans(self, *commands, **environment):
        """What becomes of each command: the hash of its run, or why it is refused."""
        done = self.python("-c", _PLAN, json.dumps([command.split() for command in commands]), **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
