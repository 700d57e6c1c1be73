"""How sensitive each layer of a finished run is: `python scripts/sensitivity.py --help`."""

import argparse
import sys
from pathlib import Path

from midstate.common.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_FINISHED, ConfigError, RunFailed
from midstate.common.secrets import say


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        from midstate.runs.sensitivity import measure_run  # imports torch, which --help does not need

        say(measure_run(options.run, options.kinds, options.levels, options.images, options.out))
    except ConfigError as error:
        say(f"configuration error: {error}", sys.stderr)
        return EXIT_BAD_CONFIG
    except RunFailed as error:
        say(f"sensitivity failed: {error}", sys.stderr)
        return EXIT_FAILED
    return EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure what a finished network loses with one layer alone pruned, or in few bits, on validation "
        "images; test data are never looked at. Writes sensitivity_by_level.csv and a figure by depth, and prints the "
        "most and the least sensitive layer and the rank correlation with depth. The table serves as scores: "
        "pruner=nm_mixed pruner.score=file pruner.scores=TABLE, or quantizer/allocation=budget quantizer.score=file "
        "quantizer.scores=TABLE.",
        epilog="Exit status: 0 written, 2 no finished run there, or levels that there are not, 3 not written.",
    )
    parser.add_argument("run", type=Path, help="its directory, such as outputs/dense/1a2b3c4d5e6f/seed0")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=[],
        metavar="KIND",
        help="some of weights, filters, nm, bits, input_bits, taylor, hessian (default: all)",
    )
    parser.add_argument(
        "--levels",
        nargs="+",
        default=[],
        metavar="KIND=LEVEL,...",
        help="other levels: weights=0.5,0.9 filters=0.5 (shares that go) nm=1:8,2:8 bits=2,4 input_bits=2,4",
    )
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="validation images at most (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="for the table and figures/ (default: the run's)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
