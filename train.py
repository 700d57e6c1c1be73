"""Train, prune and compare: `python train.py --help`."""

import sys
from pathlib import Path

from midstate.common import help

if __name__ == "__main__" and help.asked(sys.argv[1:]):
    sys.exit(help.show(Path(__file__).parent))  # before Hydra, which takes seconds, is imported

import hydra
from omegaconf import DictConfig

from midstate.cli import command_line, past_hydra


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    """Do one run; a multirun calls this once for each job."""
    with past_hydra():
        from midstate.runs.run import run  # heavy; after composition, so that errors and --cfg answer at once

        return run(config)


if __name__ == "__main__":
    sys.exit(command_line(main))
