"""Faults, caused for real: `python scripts/faults.py kill --times 100`, `python scripts/faults.py fuzz --times 2000`.

Prints a table; with --docs also puts it into docs/reliability.md. The exit status is 1 if something was lost or broke.
"""

import argparse
import importlib
import sys

from benchmarks.common import machine, table
from midstate.common import files
from midstate.common.arguments import positive
from midstate.common.project import ROOT

# Kinds of fault, with their default number of times.
COMMANDS = {"fuzz": 2000, "kill": 100}


def main() -> None:
    """Cause one kind of fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = ", ".join(f"{name} {number}" for name, number in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--times", type=positive, help=f"how often; default: {defaults}")
    parser.add_argument("--seed", type=int, default=0, help="of what is random")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/reliability.md")
    arguments = parser.parse_args()
    module = importlib.import_module(f"faults.{arguments.command}")
    about = machine()
    rows = module.measure(arguments.times or COMMANDS[arguments.command], arguments.seed)
    text = table({"rows": rows, "machine": about})
    print(text)
    if arguments.docs:
        files.put(ROOT / "docs" / "reliability.md", f"faults:{arguments.command}", text)
    if any(row.get("not bit-equal") or str(row.get("outcome")).startswith("defect") for row in rows):
        sys.exit("something was lost or broke")


if __name__ == "__main__":
    main()
