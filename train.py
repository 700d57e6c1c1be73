"""Train, prune and compare: `python train.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

from midstate.cli import command_line, past_hydra


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    """Do one run; a multirun comes here once a job."""
    from midstate.run import run  # heavy imports come after composition, so that --help answers at once

    with past_hydra():
        return run(config)


if __name__ == "__main__":
    sys.exit(command_line(main))
