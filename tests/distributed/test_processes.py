"""Several processes at one run, started by torchrun as a user starts them; gloo, on the CPU."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT, TINY, begin, wait_for, write_mnist

import midstate
from midstate.distributed.processes import digest

PACKAGE = Path(midstate.__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node")
# LayerNorm only: nothing depends on how a batch is cut.
TRANSFORMER = (
    "model=timm",
    *("+model.arguments.depth=2", "+model.arguments.embed_dim=48", "+model.arguments.num_heads=3"),
    "optimizer=adamw",
    "pruner.n=2",
    "pruner.m=4",
)


def torchrun(place: Path, *overrides: str, options: tuple[str, ...] = ("2", "--standalone")) -> subprocess.Popen:
    place.mkdir(exist_ok=True)
    flags = [each for each in overrides if each.startswith("-")]
    values = [each for each in overrides if each not in flags]
    return subprocess.Popen(
        [*TORCHRUN, *options, str(ROOT / "train.py"), *flags, *TINY, *values],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=180)
    assert process.returncode == status, out + err
    return out, err


def losses(run: Path) -> list[float]:
    return pd.read_csv(run / "losses.csv")["loss"].tolist()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


@pytest.mark.slow
def test_two_machines_train_what_one_process_does(tmp_path):
    """The second has no file of the first's: it writes none, and needs none."""
    rendezvous = ("--nnodes=2", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-backend=c10d")
    alone = begin(tmp_path, *TINY, *TRANSFORMER, "run_dir=alone")
    machines = [
        torchrun(tmp_path / place, *TRANSFORMER, "run_dir=run", options=("1", *rendezvous, f"--node-rank={i}"))
        for i, place in enumerate(("first", "second"))
    ]
    finished(alone)
    outputs = [finished(machine)[0] for machine in machines]
    spoke = [place for place in ("first", "second") if (tmp_path / place / "run").exists()]
    assert len(spoke) == 1  # whichever came first to the meeting
    assert sum(output.count("run_dir: run") for output in outputs) == 1
    run = tmp_path / spoke[0] / "run"
    assert losses(run) == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    here, there = (json.loads((each / "summary.json").read_text()) for each in (run, tmp_path / "alone"))
    assert here["pattern_verified"]
    assert here["layers"] == there["layers"]
    assert here["loss"] == pytest.approx(there["loss"], rel=1e-3)
    metrics = [pd.read_csv(each / "metrics.csv") for each in (run, tmp_path / "alone")]
    assert metrics[0]["val/loss"].tolist() == pytest.approx(metrics[1]["val/loss"].tolist(), rel=1e-3)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    """With BatchNorm, whose statistics each process measures by itself; one process alone is asked to stop."""
    settings = ("checkpoint_every=4it", "epochs=3", "max_steps_per_epoch=30", "probes=false")
    overrides = [f"trainer.{each}" for each in settings]
    finished(torchrun(tmp_path, *overrides, "run_dir=whole"))
    process = torchrun(tmp_path, *overrides, "run_dir=run")
    wait_for(process, lambda: list((tmp_path / "run" / "checkpoints").glob("step-*.pt")))
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    subprocess.run(["kill", "-TERM", workers[-1]], check=True)
    process.communicate(timeout=180)
    assert process.returncode == 1  # torchrun's, whatever its processes say
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"
    out, _ = finished(torchrun(tmp_path, *overrides, "run_dir=run"))
    assert out.count("going on from step") == 1
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    summaries = [json.loads((tmp_path / run / "summary.json").read_text()) for run in ("run", "whole")]
    assert summaries[0]["config_hash"] == summaries[1]["config_hash"]
    assert summaries[0]["layers"] == summaries[1]["layers"]


@pytest.mark.slow
def test_channels_are_put_in_one_order(tmp_path):
    """Masks that differ would end the run."""
    words = ("pruner=nm", "pruner.n=2", "pruner.m=4", "pruner.permute=true")
    alone = begin(tmp_path, *TINY, *words, "run_dir=alone")
    finished(torchrun(tmp_path, *words, "run_dir=run"))
    finished(alone)
    one, two = (json.loads((tmp_path / each / "summary.json").read_text()) for each in ("alone", "run"))
    assert two["permuted"]["after"] == one["permuted"]["after"] > one["permuted"]["before"]


@pytest.mark.slow
def test_recovery_is_measured_by_each_process_and_told_once(tmp_path):
    write_mnist(tmp_path / "sets")
    data = ("data=fashion_mnist", "data.root=../sets", "data.download=false", "data.size=14", "data.num_train=60")
    settings = (*data, "data.num_validation=20", "data.num_unused=40", "logger=none", "trainer.epochs=2")
    command = [*TORCHRUN, "2", "--standalone", str(ROOT / "train.py"), *settings, "trainer.batch_size=10"]
    place = tmp_path / "place"
    place.mkdir()
    done = subprocess.run(
        [*command, "trainer.probes=false", "trainer.recovery=true", "run_dir=run"],
        cwd=place, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("on 40 unused training images") == 1
    found = json.loads((place / "run" / "summary.json").read_text())["recovery"]
    assert found["images"] == 40
    assert all(found[name] * 0.4 == pytest.approx(round(found[name] * 0.4)) for name in ("just_pruned", "finished"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("-m", "seed=0,1"), "start a multirun without it"),
        (("trainer.batch_size=25",), "must be a multiple of the 2 processes"),
    ],
)
def test_what_cannot_be_shared_is_refused_once(tmp_path, overrides, message):
    _, err = finished(torchrun(tmp_path, *overrides), status=1)
    assert err.count("configuration error") == 1
    assert message in err
    assert f'File "{PACKAGE}' not in err  # no traceback of ours
    assert not list(tmp_path.glob("outputs/*/*/seed*"))


@pytest.mark.slow
def test_processes_of_different_runs_are_refused(tmp_path):
    script = tmp_path / "each_its_own.py"
    script.write_text(f"""
import os, runpy, sys
if os.environ["RANK"] == "1":
    sys.argv.append("optimizer.lr=3")
sys.path.insert(0, {str(ROOT)!r})
sys.argv[0] = {str(ROOT / "train.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
""")
    done = subprocess.run(
        [*TORCHRUN, "2", "--standalone", str(script), *TINY], capture_output=True, text=True, timeout=180, cwd=tmp_path
    )
    assert done.stderr.count("configuration error: torchrun: its processes have different configurations") == 1
    assert not (tmp_path / "outputs").exists()


ASTRAY = """
import os, sys, torch
from midstate.common.errors import RunFailed
from midstate.config.compose import composed
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.runs.prepare import build_session
from midstate.distributed.processes import joined
from midstate.engine.step import train_step

plan = Plan.of(composed(*sys.argv[1:], "logger=none", "trainer.probes=false", "schedule.start=0"))
with joined(plan.parts.device) as processes:
    session = build_session(plan, processes)
    session.model.train()
    for step, batch in enumerate(session.batches.epoch(0)):
        if step == 3 and processes.rank == 1:
            with torch.no_grad():
                session.pruner._weights[2].neg_().add_(1)
        try:
            train_step(session, *batch)
        except RunFailed as error:
            sys.stdout.write(f"rank {processes.rank} step {step}: {error}" + os.linesep)  # in one piece
            break
        assert step < 3
"""


@pytest.mark.slow
def test_a_mask_that_goes_astray_ends_the_run(tmp_path):
    """Buffers are not broadcast, else rank 0's mask would have been put in its place before the comparison."""
    script = tmp_path / "astray.py"
    script.write_text(ASTRAY)
    done = subprocess.run(
        [*TORCHRUN, "2", "--standalone", str(script), "data.train_placements=1", "data.eval_placements=1"],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=tmp_path,
    )
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith("rank"))
    assert [line[:15] for line in lines] == ["rank 0 step 3: ", "rank 1 step 3: "], done.stdout + done.stderr
    assert all("the masks of stages.1.0.conv1 differ between processes at step 3" in line for line in lines)


LOST = """
import io, os, sys, torch
from urllib.error import HTTPError
from midstate.common.errors import RunFailed
from midstate.distributed.processes import joined, others_at_work

def say(*words):  # in one piece, for two processes speak at once
    sys.stdout.write(" ".join(map(str, (os.environ["RANK"], *words))) + os.linesep)

def refused():
    raise HTTPError("x", 404, "not there", None, io.BytesIO())

try:
    with joined(torch.device("cpu")) as processes:
        try:
            processes.on_rank_zero(refused)
        except Exception as error:
            say(type(error).__name__, error)
        weights = [torch.zeros(3), torch.full((2,), float(processes.rank))]
        say(processes.differing(weights), processes.gather(processes.rank))
        processes.average(weights)
        say(weights[1].tolist())
        if processes.rank == 1:
            sys.stdout.flush()
            os._exit(0)
        processes.sum([1.0])
except RunFailed as error:
    say(error)
"""


@pytest.mark.slow
def test_what_the_first_is_refused_all_are_and_a_lost_process_is_told(tmp_path):
    script = tmp_path / "lost.py"
    script.write_text(LOST)
    done = subprocess.run(
        [*TORCHRUN, "2", "--standalone", str(script)], capture_output=True, text=True, timeout=180, cwd=tmp_path
    )
    lines = done.stdout.splitlines()
    first, second = ([line[2:] for line in lines if line.startswith(rank)] for rank in "01")
    assert first[0] == "HTTPError HTTP Error 404: not there"
    assert second[0] == "RuntimeError HTTPError: HTTP Error 404: not there"
    assert first[1:3] == second[1:3] == ["[1] [0, 1]", "[0.5, 0.5]"]
    assert first[3].startswith("another process of this run has ended")


def bools(numel: int, seed: int) -> torch.Tensor:
    return torch.rand(numel, generator=torch.Generator().manual_seed(seed)) < 0.5


def swaps() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Masks of a thousand weights and what comes of them by moving weights in use about."""
    for seed in range(50):
        mask = bools(1000, seed)
        other = mask.clone()
        for i in torch.randint(0, 998, (4,), generator=torch.Generator().manual_seed(seed)).tolist():
            other[i], other[i + 1] = other[i + 1].clone(), other[i].clone()
        if not torch.equal(mask, other):
            yield mask, other


def test_digests_tell_masks_apart():
    mask = bools(77, 0)
    for i in range(77):
        other = mask.clone()
        other[i] = ~other[i]
        assert digest(other) != digest(mask)
    assert digest(mask.view(7, 11)) == digest(mask)
    pairs = list(swaps())
    assert len(pairs) > 30
    assert all(digest(one) != digest(other) for one, other in pairs)
    # A word that moves to one place and back from another: what a plain weighted sum would not see.
    one, other = torch.zeros(2, 64, dtype=torch.bool)
    one[[0, 24]] = True
    other[[8, 16]] = True
    assert digest(one) != digest(other)
