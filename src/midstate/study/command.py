"""The command line of `scripts/reproduce.py`."""

import argparse
import sys
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from midstate.common import files
from midstate.common.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_FINISHED, EXIT_INTERRUPTED, EXIT_STOPPED
from midstate.common.project import CONF
from midstate.common.secrets import flush_output, say
from midstate.config.explain import explain, is_users
from midstate.study.arguments import EDITIONS, OWN, parser
from midstate.study.claims import COMMITTED, PILOT, Claim, read_all, read_claims

if TYPE_CHECKING:
    from midstate.study.execution import Sweep
    from midstate.study.forecast import Rows
STEP = 5  # seeds added at a time
EXIT_DIFFERENT = 1  # of --verify


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:  # not during a sweep, which handles SIGINT itself
        say("stopped at once; what stands in the tables is whole", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        flush_output()


def _main(arguments: list[str] | None) -> int:
    options = parser().parse_args(arguments)
    options.committed = options.results or COMMITTED  # runs with a row there count as done for --missing
    about_committed = (options.report or options.verify) and not options.overrides
    options.results = options.results or (COMMITTED if about_committed else OWN)
    try:
        claims, planned = _plan(options)
    except Exception as error:
        if not isinstance(error, ValueError) and not is_users(error):
            raise
        say(f"configuration error: {explain(error)}", file=sys.stderr)
        return EXIT_BAD_CONFIG
    if options.list:
        _print_list(claims)
        return EXIT_FINISHED
    if options.verify:
        from midstate.study.verification import verify

        return EXIT_FINISHED if verify(options.results, claims) else EXIT_DIFFERENT
    return _reproduce(claims, planned, options)


def _with_overrides(claim: Claim, scale: str, overrides: list[str], num_seeds: int | None) -> Claim:
    """A claim with the user's overrides as its only cell; its pilot gets them, too."""
    if scale not in claim.scales:
        raise ValueError(f"scale={scale!r}: {claim.claim} has only {', '.join(claim.scales)}")
    seeds = max(num_seeds or 0, len(claim.seeds(scale)))
    scales = {scale: {**claim.scales[scale], "cells": [overrides], "seeds": seeds, "typed": True}}
    if PILOT in claim.scales:  # its first cell asks for validation images
        cell = [*claim.cells(PILOT)[0], *overrides]
        scales[PILOT] = {**claim.scales[PILOT], "cells": [cell], "seeds": len(claim.seeds(PILOT))}
    return replace(claim, scales=scales)


def _check_seeds(claims: list[Claim], options: argparse.Namespace) -> None:
    """Refuse more seeds than a claim of the second edition has set down for its arms: they would not be judged."""
    scale, seeds = options.scale, options.seeds or 0
    for claim in claims:
        planned = max(len(claim.seeds(scale)), claim.scales.get(scale, {}).get("max_seeds", 0))
        arms = [arm for cell in claim.cells(scale) for arm in claim.arms_in(cell, scale) if _is_asked(arm, options)]
        if arms and claim.edition > 1 and 0 < planned < seeds:  # arms of `levels` may have any number
            raise ValueError(
                f"--seeds={seeds}: {claim.claim} has {planned} at scale {scale}, set down in advance; "
                "a cell of one's own (KEY=VALUE) may have more"
            )


def _check_report(options: argparse.Namespace) -> None:
    """Refuse options that `--report` ignores: it shows all claims and rows, or the typed cell alone."""
    ignored = ("arms", "seeds", "missing", *(() if options.overrides else ("only", "edition")))
    if typed := [f"--{name}" for name in ignored if options.report and getattr(options, name)]:
        raise ValueError(f"{', '.join(typed)}: not with --report, which shows all that is in {options.results}")


def _print_list(claims: list[Claim]) -> None:
    for claim in claims:
        say(f"{claim.claim} {claim.title}, edition {claim.edition}: {claim.english.strip()}")
        say(f"    endpoint: {claim.endpoint.name}")
        for each in (claim.control,) if claim.control else [gate.endpoint for gate in claim.gate]:
            say(f"    {'control:' if claim.control else 'gate:   '}  {each.name}")
        say(f"    arms:     {', '.join(claim.all_arms)}")
        for each in claim.levels:
            say(f"    levels of {each.name}, with --arms: {', '.join(each.arms)}")


def _claims(options: argparse.Namespace) -> list[Claim]:
    """The claims asked for; without --edition those of the second, with --list, --report or --verify of both."""
    only = options.only.split(",") if options.only else None
    if options.edition or not (options.list or options.report or options.verify):
        return read_claims(only, EDITIONS[options.edition or "second"])
    if not only:
        return read_all()
    found = []
    for name in only:  # the first edition has ten of the fifteen
        found += [each for each in read_all() if each.claim == name.strip().upper()] or read_claims([name])
    return found


def _plan(options: argparse.Namespace) -> tuple[list[Claim], list]:
    """The claims that are asked for, and the runs they need; all that can be refused is refused here."""
    claims = _claims(options)
    if options.readme and options.results == OWN:
        raise ValueError("--readme: shows the committed verdicts, not those of one's own runs; add --report")
    _check_report(options)
    if options.results.exists() and not options.results.is_dir():
        raise ValueError(f"--results={options.results}: must be a folder")
    if options.verify and not (options.results / "claims.csv").is_file():
        raise ValueError(f"--verify: {options.results / 'claims.csv'} is not there")
    if options.overrides:  # they replace the scale's own cells
        claims = [_with_overrides(claim, options.scale, options.overrides, options.seeds) for claim in claims]
    if options.list or options.report or options.verify:
        return claims, []
    _check_seeds(claims, options)
    from midstate.study import outline, planning, remembered  # late, as these import torch

    asked = (claims, options.scale, options.seeds, options.arms)
    if options.dry_run and not options.overrides and (planned := outline.outline(*asked)):
        return claims, planned
    planned = planning.plan_runs(*asked)
    if not options.dry_run:
        planning.try_data(planned)
    if not options.overrides:
        remembered.keep({(run.experiment, run.overrides): run.config_hash for run in planned})
    return claims, planned


def _reproduce(claims: list[Claim], planned: list, options: argparse.Namespace) -> int:
    if options.report:
        _write_report(claims, options)
        return EXIT_FINISHED
    _print_forecast(planned, options)
    if options.dry_run:
        return EXIT_FINISHED
    sweep = _sweep(claims, planned, options)
    if options.scale == PILOT:
        _print_gates(claims, options)
    elif not sweep.stopping.is_set():  # else the report would show half of a sweep
        _write_report(claims, options)
    for run, why in sweep.failures.items():
        say(f"failed: {run.name}: {why}", file=sys.stderr)
    if sweep.stopping.is_set():
        done = sum(run.finished for run in planned)
        say(
            f"stopped: {done} of {len(planned)} runs are done and stand in the tables in {options.results}; verdicts, "
            "figures and report there are as they were. The same command goes on from here; "
            f"--report --results {options.results} draws what there is"
        )
        return EXIT_STOPPED
    return EXIT_FAILED if sweep.failures else EXIT_FINISHED


def _print_gates(claims: list[Claim], options: argparse.Namespace) -> None:
    """Say which gates the rows of the pilot meet."""
    from midstate.study import tables, verdicts

    pilot = tables.read_pilot(options.results)
    for claim in claims:
        for each in verdicts.gates_of(claim, pilot.iloc[:0], pilot):
            if each.gate.decided == PILOT:
                asked = each.gate.endpoint
                value = f"{each.value:.2f} {asked.unit} ({each.gate.bound}; {each.seeds} seeds)" if each.seeds else "-"
                say(f"{claim.claim}: {each.state}: {asked.name}: {value}")


def _counted(options: argparse.Namespace) -> "Rows | None":
    """The rows whose runs count as done with `--missing`; None without it."""
    from midstate.study.forecast import Rows

    return Rows.read(options.committed, table=_table(options)) if options.missing else None


def _table(options: argparse.Namespace) -> str:
    """The table that the runs of a scale go into."""
    from midstate.study.tables import PILOT_TABLE

    return PILOT_TABLE if options.scale == PILOT else "runs.csv"


def _print_forecast(planned: list, options: argparse.Namespace) -> None:
    """Print how many runs are to do and how long they take; with --dry-run also every run."""
    from midstate.study import forecast

    table = _table(options)
    known = forecast.Rows.read(options.committed, options.results, table=table)
    todo = forecast.to_do(planned, _counted(options))
    left = {run.directory for run in todo}
    done = len({run.directory for run in planned} - left)
    say(f"{options.scale}: {len(planned)} runs, {done} done, {forecast.amount(todo, known, options.jobs)}")
    if options.dry_run and not options.missing:
        counted = forecast.Rows.read(options.committed, table=table)
        say(forecast.missing_in_words(planned, counted, known, options.jobs, options.committed / table))
    for run in planned if options.dry_run else ():
        say(f"{'to do' if run.directory in left else 'done':5}  {run.name}")


def _sweep(claims: list[Claim], planned: list, options: argparse.Namespace) -> "Sweep":
    """Run what is missing, then further seeds where they are needed; update the tables after each round."""
    from midstate.study import forecast, tables
    from midstate.study.execution import Sweep

    sweep, counted = Sweep(), _counted(options)
    with sweep.stopped_by_signal():
        while True:
            sweep.run(forecast.to_do(planned, counted), options.jobs)
            collect = tables.collect_pilot if options.scale == PILOT else tables.collect
            collect((run for run in planned if _is_asked(run.experiment, options)), options.results)
            if options.seeds or options.arms or sweep.failures or sweep.stopping.is_set():
                return sweep
            known = {run.directory for run in planned}
            more = [run for run in _more_seeds(claims, options) if run.directory not in known]
            if not more:
                return sweep
            planned += more


def _is_asked(arm: str, options: argparse.Namespace) -> bool:
    """Tell whether an arm was asked for itself, not only as the start of another."""
    return not options.arms or fnmatchcase(arm, options.arms)


def _write_report(claims: list[Claim], options: argparse.Namespace) -> None:
    from midstate.study.readme import readme_table
    from midstate.study.report import write_report

    chosen = claims if options.overrides else None
    for path in write_report(options.results, chosen, options.wandb):
        say(str(path))
    if options.readme:
        files.put(CONF.parent / "README.md", "claims", readme_table(options.results))


def _more_seeds(claims: list[Claim], options: argparse.Namespace) -> list:
    """Runs of further seeds for claims whose minimum detectable effect is still above the SESOI."""
    from midstate.study import tables, verdicts
    from midstate.study.planning import plan_runs

    more = []
    for claim in claims:
        judged = verdicts.judge([claim], tables.read_runs(options.results), tables.read_pilot(options.results))
        primary = [each for each in judged if each.verdict and each.scale == options.scale]
        seeds = min((each.measured.seeds for each in primary), default=0)
        most = claim.scales.get(options.scale, {}).get("max_seeds", 0)
        if seeds < most and any(each.measured.mde > each.sesoi for each in primary):
            say(f"{claim.claim}: {seeds} seeds could miss an effect of interest; {STEP} more, of {most} at most")
            more += plan_runs([claim], options.scale, min(seeds + STEP, most))
    return more
