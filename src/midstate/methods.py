"""The methods that come as presets: `python -m midstate.methods` prints them as a table.

Everything in it is read from the files under conf/pruner: the axes from their defaults, the rest from the
comment at their top (Source, Settings, Reported, Differs).
"""

import argparse
import re
from pathlib import Path

from omegaconf import OmegaConf

from midstate.common import files
from midstate.common.project import CONF

PRESETS = CONF / "pruner"
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
    """Print the table, or put it into a file between its marks."""
    parser = argparse.ArgumentParser(description="Print the table of methods.")
    parser.add_argument("--write", type=Path, help="put it into this file, between <!-- methods --> and <!-- end -->")
    arguments = parser.parse_args()
    text = table(methods())
    if arguments.write is None:
        print(text)
        return
    files.put(arguments.write, "methods", text)


if __name__ == "__main__":
    main()
