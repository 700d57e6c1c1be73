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

# Of processes that run a module of this package, which is not installed.
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
    """Training runs in processes of their own, forked from one that has imported everything.

    Args:
        jobs: for each the arguments of train.py and the file for its output.
        at_once: how many side by side.

    Returns:
        The largest exit status.
    """
    from concurrent.futures import ThreadPoolExecutor

    from midstate.study.process import exit_status, start_train

    with ThreadPoolExecutor(at_once) as pool:
        return max(pool.map(lambda job: abs(exit_status(start_train(*job))), jobs))


def prepared(*overrides: str) -> "Session":
    """A run as `python train.py OVERRIDES` prepares it, in this process; nothing is written."""
    from midstate.runs.plan import Plan
    from midstate.runs.prepare import build_session

    return build_session(Plan.of(composed(*overrides)))


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call, on a GPU with all that it has begun."""
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, by name, taken in turn; nothing without repeats."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats and repeats + 2):  # two to warm up
        for name, call in calls.items():
            seconds[name].append(timed(call))
    return {name: median(each[2:]) for name, each in seconds.items() if each[2:]}


def wait() -> None:
    """Wait for a GPU, if there is one, to finish what it has begun."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Where and with what a benchmark ran."""
    import torch

    from midstate.distributed.machine import processor_name

    return {
        "processor": f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}",  # a name alone tells little
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git": git_commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def rendered(benchmark: str, result: dict[str, Any]) -> str:
    """Render the result of a benchmark as it is to be read: where its module has `shown`, as that arranges the rows."""
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
