"""Benchmarks: `python scripts/bench.py first_run`. Prints a table.

With --json F it also writes rows and machine to a file, with --docs it puts the table into docs/speed.md or
docs/scale.md, and the figures that README.md quotes from results/bench into README.md.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import machine, rendered
from benchmarks.quoted import RECORDS, quoted
from midstate.common import files
from midstate.common.arguments import positive
from midstate.common.errors import EXIT_BAD_CONFIG, ConfigError
from midstate.common.project import ROOT
from midstate.common.secrets import say

# Benchmarks, with their default number of repeats.
COMMANDS = {
    "channels": 15,
    "data": 7,
    "files": 5,
    "first_run": 3,
    "gate": 5,
    "infer": 9,
    "mask": 15,
    "parallel": 15,
    "quantized_step": 9,
    "ranking": 5,
    "refresh": 30,
    "scaling": 7,
    "shares": 1,
    "startup": 7,
    "step": 25,
    "step_bf16": 25,
    "sweep": 1,
}
# Pages of benchmarks whose tables are not in docs/speed.md.
PAGES = {"files": "docs/scale.md", "parallel": "docs/scale.md"}


def main(given: list[str] | None = None) -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = ", ".join(f"{name} {number}" for name, number in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="infer: of these finished runs' networks")
    parser.add_argument("--repeats", type=positive, help=f"how often; default: {defaults}")
    parser.add_argument("--json", type=Path, default=None, help="file for rows and machine")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/speed.md or docs/scale.md")
    arguments = parser.parse_intermixed_args(given)
    try:
        result = {"machine": machine(), "rows": _rows(arguments)}
    except ConfigError as error:
        say(f"configuration error: {error}", sys.stderr)
        sys.exit(EXIT_BAD_CONFIG)
    text = rendered(arguments.command, result)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.docs:
        files.put(ROOT / PAGES.get(arguments.command, "docs/speed.md"), f"bench:{arguments.command}", text)
        files.put(ROOT / "README.md", "speed", quoted(RECORDS))
    if not all(row.get("holds", True) for row in result["rows"]):
        sys.exit("a limit is broken")


def _rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows that the benchmark measures."""
    if arguments.runs and arguments.command != "infer":
        raise ConfigError(f"{arguments.runs[0]}: {arguments.command} takes no runs; infer does")
    if arguments.runs and arguments.docs:
        raise ConfigError("--docs: the page has the networks that infer takes without RUN")
    benchmark = importlib.import_module(f"benchmarks.{arguments.command}")
    repeats = arguments.repeats or COMMANDS[arguments.command]
    return benchmark.measure(repeats, arguments.runs) if arguments.runs else benchmark.measure(repeats)


if __name__ == "__main__":
    main()
