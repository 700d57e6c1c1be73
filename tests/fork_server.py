"""A server that has imported what takes long, and forks a process for each Python command it is asked to run.

Its arguments are modules to import beside those of all commands. A request is one line of JSON on standard input:
`arguments` after `python`, `cwd`, `environment`, and the files `out` and `err`. The answer is the exit status,
negative where a signal ended the process.
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

IMPORTS = ("hydra.main", "torch._dynamo", "matplotlib.pyplot", "wandb")
LIMIT = 600  # seconds, of a command


def main() -> None:
    """Serve until standard input ends."""
    for name in (*IMPORTS, *sys.argv[1:]):
        importlib.import_module(name)
    gc.freeze()  # or each process would copy the pages of all these objects when it looks for garbage
    for line in sys.stdin:
        process = get_context("fork").Process(target=_python, kwargs=json.loads(line))
        process.start()
        process.join()
        print(process.exitcode, flush=True)


def _python(arguments: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    """Run a script, or `-m` and a module, in this process as a fresh interpreter would."""
    signal.alarm(LIMIT)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[1:1] = [os.path.abspath(each) for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    if arguments[0] == "-m":
        sys.path[0], sys.argv = cwd, arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        script = Path(arguments[0]).resolve()
        sys.path[0], sys.argv = str(script.parent), [str(script), *arguments[1:]]
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
