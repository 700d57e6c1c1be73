"""parallel: the cost of training one run in two processes, by torchrun over Gloo on this machine, part by part.

Both processes take, in turn: a step on their own (nothing averaged), the run's step (gradients averaged), and the calls
that a run makes beside it. Figures are medians; the run's step is a ratio to the step on their own of the same turn.
"""

import json
import subprocess
import sys
import tempfile
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.common import ENVIRONMENT, timed
from midstate.config.compose import composed

if TYPE_CHECKING:
    from midstate.distributed.processes import Processes
    from midstate.engine.session import Session

PROCESSES = 2
BATCH = 32  # images of each process
MODELS = {"resnet20": 32, "resnet18": 32}  # image sizes


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a network."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "rows.json")
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"),
                *("-m", "benchmarks.parallel", str(repeats), str(file)),
            ],
            cwd=place,
            check=True,
            env=ENVIRONMENT,
        )
        return json.loads(file.read_text())


def _measure(repeats: int) -> list[dict[str, Any]]:
    """Measure in each process; rank zero returns the rows, others none."""
    import torch

    from midstate.distributed.processes import joined

    with joined(torch.device("cpu")) as processes:
        rows = [{"network": model, **_row(model, size, processes, repeats)} for model, size in MODELS.items()]
    return rows if processes.is_rank_zero else []


def _session(model: str, size: int, batch_size: int, processes: "Processes") -> "Session":
    from midstate.runs.plan import Plan
    from midstate.runs.prepare import build_session

    data = ("data=fake", f"data.size={size}", f"data.num_train={4 * batch_size}", f"trainer.batch_size={batch_size}")
    length = ("trainer.epochs=1000", "trainer.threads=1", "trainer.device=cpu", "trainer.probes=false")
    session = build_session(
        Plan.of(composed(f"model={model}", *data, *length, "logger=none", "pruner=nm_block")), processes
    )
    session.model.train()
    session.step = int(0.1 * session.total_steps)  # in the midst of the ramp
    return session


def _row(model: str, size: int, processes: "Processes", repeats: int) -> dict[str, Any]:
    from midstate.distributed.processes import ALONE
    from midstate.engine.step import train_step

    alone = _session(model, size, BATCH, ALONE)
    session = _session(model, size, BATCH * processes.size, processes)
    batches = {id(each): cycle(list(each.batches.epoch(0))) for each in (alone, session)}

    def step(session: "Session") -> float:
        images, labels = next(batches[id(session)])
        session.pruner.refresh(session.step)  # not timed here, but by itself below
        return timed(lambda: train_step(session, images, labels))

    calls = {
        "masks refreshed": lambda: session.pruner.refresh(session.step + 0.5),
        "masks compared": lambda: processes.differing(session.pruner.masks),
        "loss and stop agreed": lambda: (processes.sum([0.0, 0.0]), processes.any(False)),
        "BatchNorm averaged": session.synchronise,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("alone", "together", *calls)}
    for turn in range(repeats + 2):
        taken = {"alone": step(alone), "together": step(session)}
        taken |= {name: timed(call) for name, call in calls.items()}
        for name, time in taken.items() if turn > 1 else ():  # the first two warm up
            seconds[name].append(time)
    parameters = sum(parameter.numel() for parameter in session.model.parameters())
    return {
        "gradients (MB)": round(4 * parameters / 1e6, 1),
        "step alone (ms)": round(1e3 * median(seconds["alone"]), 1),
        "step together": round(median(a / b for a, b in zip(seconds["together"], seconds["alone"], strict=True)), 3),
        **{f"{name} (ms)": round(1e3 * median(seconds[name]), 2) for name in calls},
    }


def main() -> None:
    """Measure in a process of torchrun; the command line has repeats and the file for the rows."""
    if rows := _measure(int(sys.argv[1])):
        Path(sys.argv[2]).write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
