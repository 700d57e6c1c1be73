"""The presets, and the products of axes that are refused: `python -m midstate.methods` prints them as tables.

Everything on the presets is read from the files under conf/pruner: the axes from their defaults, the rest from the
comment at their top (Source, Settings, Reported, Differs).
"""

import argparse
import re
from pathlib import Path

from omegaconf import OmegaConf

from midstate.common import files

PRESETS = Path(__file__).parents[2] / "conf" / "pruner"
AXES = ("pattern", "criterion", "allocation", "path", "update", "estimator", "scope")
FACTS = ("Source", "Settings", "Reported", "Differs")
ORDER = ("", "weight", "row", "filter", "nm")  # of patterns in the table


def methods() -> list[dict[str, str]]:
    """One row a preset: its name, what it is, its axes and what its file says of its source."""
    rows = [_read(path) for path in sorted(PRESETS.glob("*.yaml"))]
    return sorted(rows, key=lambda row: ORDER.index(row["pattern"]))


def table(rows: list[dict[str, str]]) -> str:
    """Render rows as a Markdown table."""
    lines = ["| preset | method | " + " | ".join(AXES) + " | source | reported |", "|" + "---|" * (len(AXES) + 4)]
    for row in rows:
        cells = [f"`{row['preset']}`", row["method"], *(row[axis] for axis in AXES), row["Source"], row["Reported"]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def refused_table() -> str:
    """Render the products of axes that are refused, with the reasons, as a Markdown table."""
    from midstate.sparsity.method import REFUSED  # takes as long as importing torch

    rows = [(each.what, re.sub(r"\{[^}]*\}", "…", each.why)) for each in REFUSED]
    lines = ["| refused | reason, and the way out |", "|---|---|"]
    return "\n".join(lines + [f"| {what} | {why} |" for what, why in rows])


def _read(path: Path) -> dict[str, str]:
    comment = "\n".join(line[1:] for line in path.read_text().splitlines() if line.startswith("# "))
    comment = re.sub(r"\n {2,}", " ", comment)  # indented lines go on
    first, *rest = (line.strip() for line in comment.splitlines())
    facts = dict(line.split(": ", 1) for line in rest)
    if missing := [fact for fact in FACTS if fact not in facts]:
        raise ValueError(f"{path}: its comment says nothing of {', '.join(missing)}")
    chosen = {
        key: value
        for entry in OmegaConf.load(path).defaults
        for key, value in entry.items()
        if not key.startswith("override")
    }
    return {
        "preset": path.stem,
        "method": first.rstrip("."),
        **{axis: chosen.get(axis, "") for axis in AXES},
        **{fact: facts[fact] for fact in FACTS},
    }


def main() -> None:
    """Print a table, or put those that a file has marks for between them."""
    tables = {"methods": lambda: table(methods()), "refused": refused_table}
    parser = argparse.ArgumentParser(description="Print the table of methods, or of refused products of axes.")
    parser.add_argument("--refused", action="store_true", help="the products of axes that are refused, and why")
    marks = " or ".join(f"<!-- {name} -->" for name in tables)
    parser.add_argument("--write", type=Path, help=f"put tables into this file, between {marks} and <!-- end -->")
    arguments = parser.parse_args()
    if arguments.write is None:
        print(tables["refused" if arguments.refused else "methods"]())
        return
    content = arguments.write.read_text()
    found = [name for name in tables if f"<!-- {name} -->" in content]
    if not found:
        parser.error(f"--write {arguments.write}: has no marks {marks}")
    for name in found:
        files.put(arguments.write, name, tables[name]())


if __name__ == "__main__":
    main()
