"""The command line of `scripts/reproduce.py`."""

import argparse
import sys
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from midstate.common import files
from midstate.common.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_FINISHED, EXIT_STOPPED
from midstate.common.project import CONF
from midstate.config.explain import explain, is_users
from midstate.study.claims import SCALES, Claim, read_claims

if TYPE_CHECKING:
    from midstate.study.execution import Sweep
    from midstate.study.planning import PlannedRun
STEP = 5  # seeds added at a time
START_SECONDS = 2  # of a run before its first step and after its last, on 2 cores


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = _parser().parse_args(arguments)
    options.results = options.results or Path("outputs/reproduce" if options.overrides else "results")
    try:
        claims, planned = _plan(options)
    except Exception as error:
        if not isinstance(error, ValueError) and not is_users(error):
            raise
        print(f"configuration error: {explain(error)}", file=sys.stderr)
        return EXIT_BAD_CONFIG
    if options.list:
        _print_list(claims)
        return EXIT_FINISHED
    return _reproduce(claims, planned, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Run the experiments of the article's claims, judge them, write tables, figures and the report.",
        epilog="What is finished is not run again; what was interrupted goes on. Exit status: 0 all finished, "
        "2 bad configuration, 3 some runs failed, 75 stopped on request.",
    )
    parser.add_argument("--scale", choices=SCALES, default="quick", help="how much to run (default: quick)")
    parser.add_argument("--only", metavar="C8,C10", help="these claims alone")
    parser.add_argument(
        "--arms", metavar="PATTERN", help="of these claims the arms of this name alone, such as 'c2_bits_*'"
    )
    parser.add_argument("--seeds", type=_positive, metavar="N", help="instead of each claim's own number")
    parser.add_argument("--jobs", type=_positive, default=2, metavar="N", help="runs at a time (default: 2)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="default: results")
    parser.add_argument("--list", action="store_true", help="print the claims and their arms")
    parser.add_argument("--dry-run", action="store_true", help="print the runs, the time they take and what is done")
    parser.add_argument("--missing", action="store_true", help="count runs in DIR/runs.csv as done")
    parser.add_argument("--report", action="store_true", help="run nothing; build the report from DIR/runs.csv")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="run the experiments with these overrides instead of the scale's own; results go to outputs/reproduce",
    )
    parser.add_argument("--readme", action="store_true", help="put the table of verdicts into README.md")
    parser.add_argument("--wandb", choices=("offline", "online", "off"), default="offline", help="default: offline")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return number


def _with_overrides(claim: Claim, scale: str, overrides: list[str]) -> Claim:
    """A claim whose only cell is the user's."""
    if scale not in claim.scales:
        raise ValueError(f"scale={scale!r}: {claim.claim} has only {', '.join(claim.scales)}")
    return replace(claim, scales={scale: {**claim.scales[scale], "cells": [overrides]}})


def _print_list(claims: list[Claim]) -> None:
    for claim in claims:
        print(f"{claim.claim} {claim.title}: {claim.english.strip()}")
        print(f"    endpoint: {claim.endpoint.name}")
        print(f"    control:  {claim.control.name}")
        print(f"    arms:     {', '.join(claim.all_arms)}")
        for each in claim.levels:
            print(f"    levels of {each.name}, with --arms: {', '.join(each.arms)}")


def _plan(options: argparse.Namespace) -> tuple[list[Claim], list]:
    """The claims that are asked for, and the runs they need; all that can be refused is refused here."""
    claims = read_claims(options.only.split(",") if options.only else None)
    if options.overrides:  # instead of the scale's own cells, and away from the committed results
        claims = [_with_overrides(claim, options.scale, options.overrides) for claim in claims]
    if options.list or options.report:
        return claims, []
    from midstate.study.planning import plan_runs  # torch and the like come when they are needed

    return claims, plan_runs(claims, options.scale, options.seeds, options.arms)


def _reproduce(claims: list[Claim], planned: list, options: argparse.Namespace) -> int:
    if not options.report:
        _print_forecast(planned, options)
    if options.dry_run:
        return EXIT_FINISHED
    sweep = _sweep(claims, planned, options)
    _write_report(claims, options)
    for run, why in sweep.failures.items():
        print(f"failed: {run.name}: {why}", file=sys.stderr)
    if sweep.stopping.is_set():
        return EXIT_STOPPED
    return EXIT_FAILED if sweep.failures else EXIT_FINISHED


def _missing(planned: list, options: argparse.Namespace) -> list:
    """The runs still to be made."""
    from midstate.study import tables
    from midstate.study.planning import with_parents

    known = tables.read_runs(options.results)
    return with_parents(run for run in planned if not (options.missing and tables.has(known, run)))


def _print_forecast(planned: list, options: argparse.Namespace) -> None:
    """Say how much there is to do, and how long it takes where records tell; every run, if asked."""
    from midstate.study import tables

    known = tables.read_runs(options.results)
    todo = _missing(planned, options)
    seconds = [tables.known_seconds(known, run) for run in todo]
    told = [START_SECONDS + each for each in seconds if each is not None]
    text = f"{options.scale}: {len(planned)} runs, {len(planned) - len(todo)} done, {len(todo)} to do"
    if told:
        text += f", about {sum(told) / options.jobs / 60:.0f} minutes with {options.jobs} at a time"
    unknown = len(seconds) - len(told)
    print(text + (f"; no record tells how long {unknown} of them take" if unknown else ""))
    for run in planned if options.dry_run else ():
        print(f"{'to do' if run in todo else 'done':5}  {run.name}")


def _sweep(claims: list[Claim], planned: list, options: argparse.Namespace) -> "Sweep":
    """Run what is missing, further seeds where they are needed, and bring the tables up to date."""
    from midstate.study import tables
    from midstate.study.execution import Sweep

    sweep = Sweep()
    while True:
        sweep.run(_missing(planned, options), options.jobs)
        tables.collect((run for run in planned if _is_asked(run, options)), options.results)
        if options.report or options.seeds or options.arms or sweep.failures or sweep.stopping.is_set():
            return sweep
        more = [run for run in _more_seeds(claims, options) if run not in planned]
        if not more:
            return sweep
        planned += more


def _is_asked(run: "PlannedRun", options: argparse.Namespace) -> bool:
    """Tell whether a run is one that was asked for, and not only what another begins from."""
    return not options.arms or fnmatchcase(run.experiment, options.arms)


def _write_report(claims: list[Claim], options: argparse.Namespace) -> None:
    from midstate.study.report import readme_table, write_report

    for path in write_report(options.results, claims if options.overrides else None, options.wandb):
        print(path)
    if options.readme:
        files.put(CONF.parent / "README.md", "claims", readme_table(options.results))


def _more_seeds(claims: list[Claim], options: argparse.Namespace) -> list:
    """Runs of further seeds for claims whose minimum detectable effect is still above what is of interest."""
    from midstate.study import tables, verdicts
    from midstate.study.planning import plan_runs

    more = []
    for claim in claims:
        judged = verdicts.judge([claim], tables.read_runs(options.results))
        primary = [each for each in judged if each.verdict and each.scale == options.scale]
        seeds = min((each.measured.seeds for each in primary), default=0)
        most = claim.scales.get(options.scale, {}).get("max_seeds", 0)
        if seeds < most and any(each.measured.mde > each.sesoi for each in primary):
            print(f"{claim.claim}: {seeds} seeds could miss an effect of interest; {STEP} more, of {most} at most")
            more += plan_runs([claim], options.scale, min(seeds + STEP, most))
    return more
