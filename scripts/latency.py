"""Microseconds of each layer at each pair of bits on this machine: `python scripts/latency.py --help`."""

import argparse
import sys
from pathlib import Path

from midstate.common.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_FINISHED, ConfigError, RunFailed
from midstate.common.secrets import say


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        from midstate.runs.latency import make_table  # imports torch, which --help does not need

        say(make_table(options.network, options.out, options.kernel, options.weight_bits, options.input_bits))
    except ConfigError as error:
        say(f"configuration error: {error}", sys.stderr)
        return EXIT_BAD_CONFIG
    except RunFailed as error:
        say(f"latency failed: {error}", sys.stderr)
        return EXIT_FAILED
    return EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time every layer of a network at every pair of bits of weights and inputs, one image, one thread, "
        "and write the table that quantizer.budget=latency quantizer.latency=FILE reads. A processor's libraries have "
        "no arithmetic below 8 bits: bitserial is a kernel of bit planes in numpy, whose time goes with the product of "
        "the bits, as on bit-serial hardware; int8 is torch's, which takes the same time for every pair.",
        epilog="Exit status: 0 written, 2 no such network, or one that cannot be timed, 3 not written.",
    )
    parser.add_argument(
        "network",
        nargs="*",
        default=[],
        help="network and data as train.py takes them, such as model=resnet20 data=clutter; or a finished run's "
        "directory; nothing: the default ones",
    )
    parser.add_argument("--out", type=Path, default=Path("latency.json"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--kernel", default="bitserial", help="bitserial or int8 (default: %(default)s)")
    for name, low in (("weight", 1), ("input", 2)):
        parser.add_argument(
            f"--{name}-bits",
            type=int,
            nargs="+",
            default=list(range(low, 9)),
            metavar="B",
            help=f"bits of {name}s in the table (default: {low} to 8)",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
