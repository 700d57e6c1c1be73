"""A server that has imported what `train.py` imports, and forks a process for each command it is asked to run.

A request is one line of JSON on standard input: `arguments` after `python train.py`, `cwd`, `environment`, and the
files `out` and `err`. The answer is the exit status, negative where a signal ended the process.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
from multiprocessing import get_context
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
IMPORTS = ("hydra.main", "midstate.runs.run", "midstate.runs.figures", "torch._dynamo", "matplotlib.pyplot", "wandb")
LIMIT = 180  # seconds, of a command


def main() -> None:
    """Serve until standard input ends."""
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # or each process would copy the pages of all these objects when it looks for garbage
    for line in sys.stdin:
        process = get_context("fork").Process(target=_train, kwargs=json.loads(line))
        process.start()
        process.join()
        print(process.exitcode, flush=True)


def _train(arguments: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    """Run `train.py` in this process as a fresh interpreter would."""
    signal.alarm(LIMIT)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = str(TRAIN.parent)
    sys.argv = [str(TRAIN), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
