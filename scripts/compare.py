"""Compare finished runs: a table, curves and CSV: `python scripts/compare.py --help`."""

import argparse
import sys
from pathlib import Path

from midstate.common.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_FINISHED, ConfigError, RunFailed
from midstate.common.secrets import say


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        from midstate.runs.compare import compare  # imports torch, which --help does not need

        say(compare(options.runs, options.by, options.out))
    except ConfigError as error:
        say(f"configuration error: {error}", sys.stderr)
        return EXIT_BAD_CONFIG
    except RunFailed as error:
        say(f"comparison failed: {error}", sys.stderr)
        return EXIT_FAILED
    return EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare finished runs, those of an interrupted sweep, too: mean and 95 % t interval over seeds "
        "of top-1 (on test data, unless runs end on validation data), parameters, multiply-accumulates, gap and time, "
        "one row a configuration, named by what differs; curves of validation accuracy; CSV. Runs that are not "
        "finished are named and left out.",
        epilog="Exit status: 0 compared, 2 no finished run there, or a setting that no run has, 3 not written.",
    )
    parser.add_argument("runs", type=Path, nargs="+", help="runs, or directories that hold some: outputs, outputs/nm")
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="SETTING",
        help="one row a value of this setting, such as pruner.order, instead of one a configuration; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/compare"),
        metavar="DIR",
        help="where curves.png, curves.svg, groups.csv and runs.csv go (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
