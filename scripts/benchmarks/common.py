"""What all benchmarks share: processes, provenance, tables."""

import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from midstate.common.project import ROOT, git_commit
from midstate.config.compose import composed

if TYPE_CHECKING:
    from midstate.engine.session import Session

# Environment of processes that run a module of this package, which is not installed.
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), *sys.path])}


def timed_process(arguments: list[str]) -> dict[str, Any]:
    """Run a Python process in an empty directory.

    Returns:
        `seconds` (wall), `peak_gib` (resident memory) and `summaries` of the runs it made.

    Raises:
        subprocess.CalledProcessError: it did not finish with status 0.
    """
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "stdout")
        with output.open("w") as file:
            started = time.perf_counter()
            process = subprocess.Popen([sys.executable, *arguments], cwd=directory, stdout=file, env=ENVIRONMENT)
            _, status, usage = os.wait4(process.pid, 0)  # this child's own peak, not that of all children
            seconds = time.perf_counter() - started
        if status:
            raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), process.args)
        summaries = [json.loads(path.read_text()) for path in Path(directory).glob("outputs/*/*/*/summary.json")]
        return {"seconds": seconds, "peak_gib": usage.ru_maxrss / 2**20, "summaries": summaries}


def run_all(jobs: Sequence[tuple[list[str], Path]], at_once: int = 2) -> int:
    """Train in processes of their own, forked from one that has imported everything.

    Args:
        jobs: the arguments of train.py and the file for its output, for each.
        at_once: how many run at the same time.

    Returns:
        The largest exit status; of a signal, its number.
    """
    from concurrent.futures import ThreadPoolExecutor

    from midstate.study.process import exit_status, start_train

    with ThreadPoolExecutor(at_once) as pool:
        return max(pool.map(lambda job: abs(exit_status(start_train(*job))), jobs))


def prepared(*overrides: str) -> "Session":
    """Prepare a run as `python train.py OVERRIDES` does, in this process; nothing is written."""
    from midstate.runs.plan import Plan
    from midstate.runs.prepare import build_session

    return build_session(Plan.of(composed(*overrides)))


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of a call, including the work that it has queued on a GPU."""
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each call, by name, measured in turn; empty if `repeats` is 0."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats and repeats + 2):  # two to warm up
        for name, call in calls.items():
            seconds[name].append(timed(call))
    return {name: median(each[2:]) for name, each in seconds.items() if each[2:]}


def wait() -> None:
    """Wait for a GPU, if there is one, to finish its queued work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that a benchmark runs on."""
    import torch

    from midstate.distributed.machine import processor_name

    return {
        "processor": f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}",  # and its instruction set
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git": git_commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def rendered(benchmark: str, result: dict[str, Any]) -> str:
    """Render the result of a benchmark as a table; `shown` of its module, if it has one, arranges the rows."""
    module = importlib.import_module(f"benchmarks.{benchmark}")
    return table({**result, "rows": getattr(module, "shown", list)(result["rows"])})


def table(result: dict[str, Any]) -> str:
    """Render a result as a Markdown table, with machine and date below."""
    rows = result["rows"]
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    about = result["machine"]
    note = (
        f"{about['processor']}, {about['cores']} cores, {about['device']}; Python {about['python']}, "
        f"torch {about['torch']}; commit {about['git']}, {about['date']}."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
