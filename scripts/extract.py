"""Remove a finished run's dead filters for real: `python scripts/extract.py --help`."""

import argparse
import sys
from pathlib import Path

from midstate.common.arguments import positive
from midstate.common.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_FINISHED, ConfigError, RunFailed
from midstate.common.secrets import say

FILE = Path("checkpoints", "extracted.pt2")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        from midstate.runs.extract import extract_run  # imports torch, which --help does not need

        say(extract_run(options.run, options.output or options.run / FILE, options.batch_size))
    except ConfigError as error:
        say(f"configuration error: {error}", sys.stderr)
        return EXIT_BAD_CONFIG
    except RunFailed as error:
        say(f"extraction failed: {error}", sys.stderr)
        return EXIT_FAILED
    return EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Make a smaller network of a finished run: filters that pruning has emptied are removed, with all "
        "else that does not depend on the image any more. Where a removed filter still gave a constant, from its bias "
        "or BatchNorm, the layers that read it get the constant instead. Prints parameters and multiply-accumulates "
        "(dense, as the run reported them, as they are left), how far the outputs differ on test images and how long "
        "a pass takes, and writes the network.",
        epilog="The file needs no code of this project: torch.export.load(FILE).module() takes any number of images "
        "of the size of the run's. Zeros within filters that stay, such as those of N:M, are left as they are. "
        "Exit status: 0 written, 2 nothing to extract there, 3 it could not be written.",
    )
    parser.add_argument("run", type=Path, help="its directory, such as outputs/filter/1a2b3c4d5e6f/seed0")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"default: {FILE} in the run's directory")
    parser.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="images a timed pass (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
