"""shares: where the processor time of one run goes, by part: ResNet-8, 12,000 images of Fashion-MNIST, one thread.

The time of a part leaves out the parts that it calls. The functions of a run are wrapped where they are looked up, in a
process of its own. Processor time is measured, since other work on the machine changes it less than wall-clock time.
"""

import functools
import importlib
import json
import runpy
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import timed_process
from midstate.common.project import ROOT

RUN = ("model=resnet8", "data=fashion_mnist", "trainer.epochs=10", "pruner=nm_block", "schedule=cubic")
PINNED = ("trainer.threads=1", "trainer.device=cpu", "machine.live_figures=false", "logger=none")
# Where a function is looked up when it is called, and the part that its time belongs to.
PARTS = {
    "midstate.engine.step:_forward_backward": "forward and backward, loss",
    "midstate.sparsity.pruner:Pruner.refresh": "masks",
    "midstate.sparsity.pruner:Pruner.before_step": "masks",
    "midstate.sparsity.pruner:Pruner.after_step": "masks",
    "midstate.data.splits:Augmentation.__call__": "batches",
    "midstate.optimizers:_SGD.step": "optimizer",
    "midstate.optimizers:_SGD.zero_grad": "optimizer",
    "midstate.engine.loop:train_step": "rest of the steps",
    "midstate.engine.probes:GapProbe.before_refresh": "probes",
    "midstate.engine.loop:evaluate": "evaluations: epochs, test",
    "midstate.runs.finish:evaluate": "evaluations: epochs, test",
    "midstate.runs.finish:show": "figures and report",
    "midstate.runs.recorder:Recorder.end_of_epoch": "tables and checkpoints",
    "midstate.runs.recorder:Recorder.save": "tables and checkpoints",
}
REST = "imports, set-up, all else"


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a part, of medians over runs."""
    runs = []
    for _ in range(repeats):
        with tempfile.NamedTemporaryFile() as file:
            timed_process(["-m", "benchmarks.shares", file.name, *RUN, *PINNED])
            runs.append(json.loads(Path(file.name).read_text()))
    seconds = {part: median(run.get(part, 0.0) for run in runs) for part in dict.fromkeys([*PARTS.values(), REST])}
    whole = sum(seconds.values())
    rows = [
        {"part": part, "processor seconds": round(each, 2), "share (%)": round(100 * each / whole, 1)}
        for part, each in seconds.items()
    ]
    return [*rows, {"part": "a run", "processor seconds": round(whole, 2), "share (%)": 100.0}]


class Shares:
    """Processor seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside: list[float] = []  # for each call under way, the time of counted calls inside it

    def wrap(self, call: Callable, part: str) -> Callable:
        """Return a function that does the same, and adds its time to `part`."""

        @functools.wraps(call)
        def counted(*arguments: Any, **options: Any) -> Any:
            started = time.process_time()
            self._inside.append(0.0)
            try:
                return call(*arguments, **options)
            finally:
                taken = time.process_time() - started
                self.seconds[part] += taken - self._inside.pop()
                if self._inside:
                    self._inside[-1] += taken

        return counted

    def follow(self, place: str, part: str) -> None:
        """Wrap the function at `module:name` or `module:class.name`."""
        module, _, name = place.partition(":")
        *owners, name = name.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        setattr(owner, name, self.wrap(getattr(owner, name), part))


def _run(out: Path, arguments: list[str]) -> None:
    """Run train.py with these arguments in this process, and write the seconds of its parts to `out`."""
    shares = Shares()
    for place, part in PARTS.items():
        shares.follow(place, part)
    sys.argv, sys.path[0] = [str(ROOT / "train.py"), *arguments], str(ROOT)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
    out.write_text(json.dumps({**shares.seconds, REST: time.process_time() - shares.seconds.total()}))


if __name__ == "__main__":
    _run(Path(sys.argv[1]), sys.argv[2:])
