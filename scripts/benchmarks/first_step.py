"""`python scripts/benchmarks/first_step.py train.py SETTINGS`: the run as typed, up to its first optimizer step."""

import os
import runpy
import sys
from pathlib import Path

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


def main() -> None:
    """Run the script that the command line names."""
    register_optimizer_step_post_hook(_leave)
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _leave(optimizer: Optimizer, arguments: tuple, keywords: dict) -> None:
    os._exit(0)  # at once, so that the end of a run is not timed


if __name__ == "__main__":
    main()
