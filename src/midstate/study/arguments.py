"""The arguments of `scripts/reproduce.py`."""

import argparse
from pathlib import Path

from midstate.common.arguments import positive
from midstate.study.claims import COMMITTED, PILOT, SCALES

EDITIONS = {"first": 1, "second": 2}
OWN = Path("outputs/reproduce")


def parser() -> argparse.ArgumentParser:
    """The parser of all arguments, with the text of `--help`."""
    made = argparse.ArgumentParser(
        description="Run the experiments of the article's claims, judge them, write tables, figures and the report.",
        epilog="What is finished is not run again; what was interrupted goes on. Exit status: 0 all finished, "
        "1 --verify found a difference, 2 bad configuration, 3 some runs failed, 75 stopped on request.",
    )
    made.add_argument(
        "--scale",
        choices=(*SCALES, PILOT),
        default="quick",
        help=f"how much to run (default: quick; {PILOT}: decides gates)",
    )
    made.add_argument(
        "--edition",
        choices=tuple(EDITIONS),
        help="first: exploratory, on embedded toy data; second: preregistered, on Fashion-MNIST (default; with "
        "--report, --verify and --list: both)",
    )
    made.add_argument("--only", metavar="C8,C10", help="these claims alone")
    made.add_argument(
        "--arms", metavar="PATTERN", help="of these claims the arms of this name alone, such as 'c2_bits_*'"
    )
    made.add_argument("--seeds", type=positive, metavar="N", help="instead of each claim's own number")
    made.add_argument("--jobs", type=positive, default=2, metavar="N", help="runs at a time (default: 2)")
    made.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help=f"for tables, figures and report; default: {OWN}, and {COMMITTED} (the committed ones) with --report and "
        "--verify",
    )
    instead = made.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="print the claims and their arms")
    instead.add_argument("--dry-run", action="store_true", help="print the runs, the time they take and what is done")
    made.add_argument(
        "--missing",
        action="store_true",
        help=f"count runs with a row in {COMMITTED}/runs.csv (or DIR's; of a pilot in pilot.csv) as done",
    )
    instead.add_argument("--report", action="store_true", help="run nothing; build the report from DIR/runs.csv")
    instead.add_argument(
        "--verify",
        action="store_true",
        help="run nothing; judge DIR's tables again, compare with DIR/claims.csv, and compare the order of commits",
    )
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="run the experiments with these overrides instead of the scale's own",
    )
    made.add_argument(
        "--readme", action="store_true", help="with --report or --results: put the table of verdicts into README.md"
    )
    made.add_argument("--wandb", choices=("offline", "online", "off"), default="offline", help="default: offline")
    return made
