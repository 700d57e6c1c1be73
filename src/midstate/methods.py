"""Tables of presets, members and refused products: `python -m midstate.methods --write docs/methods.md`.

Presets and members are read from the files under conf/. A preset's comment has Source, Settings, Reported and Differs;
a member's comment says what it does, and may have a Source; the comment behind a setting says what it means.
"""

import argparse
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf

from midstate.common import files
from midstate.common.project import CONF

PRESETS = CONF / "pruner"
AXES = ("pattern", "criterion", "allocation", "path", "update", "estimator", "scope")
FACTS = ("Source", "Settings", "Reported", "Differs")
ORDER = ("", "weight", "row", "filter", "channel", "nm")  # of the patterns in the table of presets
BITS_AXES = ("grid", "estimator", "activation", "allocation", "path", "scope")  # axes of a quantizer
# Groups whose members have a table each.
GROUPS = (*AXES, "penalty", "window", "schedule", *(f"quantizer/{axis}" for axis in (*BITS_AXES, "method")))


@dataclass(frozen=True)
class Setting:
    """A setting of a member, as its file has it."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Member:
    """A member of a group, as its file has it."""

    name: str
    what: str
    source: str
    settings: tuple[Setting, ...]


def methods() -> list[dict[str, str]]:
    """One row for each preset of a pruner: `preset`, `method`, the member of each axis, and `FACTS`."""
    rows = [_read(path, AXES) for path in sorted(PRESETS.glob("*.yaml"))]
    return sorted(rows, key=lambda row: ORDER.index(row["pattern"]))


def quantizers() -> list[dict[str, str]]:
    """One row for each preset of a quantizer, as in `methods`."""
    return [_read(path, BITS_AXES) for path in sorted((CONF / "quantizer").glob("*.yaml"))]


def table(rows: list[dict[str, str]], axes: tuple[str, ...] = AXES) -> str:
    """Render rows as a Markdown table."""
    lines = ["| preset | method | " + " | ".join(axes) + " | source | reported |", "|" + "---|" * (len(axes) + 4)]
    for row in rows:
        chosen = (row[axis] for axis in axes)
        lines.append(_line(f"`{row['preset']}`", row["method"], *chosen, row["Source"], row["Reported"]))
    return "\n".join(lines)


def refused_table() -> str:
    """Render the products of axes that are refused, with the reasons, as a Markdown table."""
    from midstate.sparsity.refused import REFUSED  # imports torch

    rows = [(each.what, re.sub(r"\{[^}]*\}", "…", each.why)) for each in REFUSED]
    lines = ["| refused | reason, and the way out |", "|---|---|"]
    return "\n".join(lines + [f"| {what} | {why} |" for what, why in rows])


def _read(path: Path, axes: tuple[str, ...]) -> dict[str, str]:
    comment = "\n".join(line[1:] for line in path.read_text().splitlines() if line.startswith("# "))
    comment = re.sub(r"\n {2,}", " ", comment)  # an indented line continues the line before
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
        **{axis: chosen.get(axis, "") for axis in axes},
        **{fact: facts[fact] for fact in FACTS},
    }


def members(group: str) -> list[Member]:
    """The members of a group (an axis, `window`, `schedule`, or such as `quantizer/grid`), sorted by name."""
    folder = CONF / group if group == "schedule" or "/" in group else PRESETS / group
    return [_read_member(path) for path in sorted(folder.glob("*.yaml"))]


def members_table(group: str) -> str:
    """Render a group's members as a Markdown table, and below it a table of what their settings mean."""
    rows, meanings = members(group), {}
    lines = ["| name | what it does | source | settings |", "|---|---|---|---|"]
    for row in rows:
        settings = ", ".join(f"`{each.name}={each.default}`" for each in row.settings)
        lines.append(_line(f"`{row.name}`", row.what, row.source, settings))
        for each in row.settings:
            meanings.setdefault((each.name, each.meaning), []).append(row.name)
    if meanings:
        lines += ["", "| setting | of | meaning |", "|---|---|---|"]
    # Settings of one name stand together, in the order in which names appear.
    names = list(dict.fromkeys(name for name, _ in meanings))
    for (name, meaning), owners in sorted(meanings.items(), key=lambda item: names.index(item[0][0])):
        of = "all" if len(owners) == len(rows) else ", ".join(f"`{owner}`" for owner in owners)
        lines.append(_line(f"`{name}`", of, meaning))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _read_member(path: Path) -> Member:
    """Read a member's comment and settings from the lines of its file."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    head = [line[2:] for line in lines if line.startswith("# ")]
    source = [line.removeprefix("Source: ") for line in head if line.startswith("Source: ")]
    what = " ".join(line.strip() for line in head if not line.startswith("Source: "))
    return Member(path.stem, what.rstrip("."), *(source or ["-"]), _settings(lines))


def _settings(lines: list[str]) -> tuple[Setting, ...]:
    """The settings in the lines of a member's file; indented ones only if no line has a `_target_`."""
    found: list[Setting] = []
    parent = ""
    for line in lines:
        if found and (more := re.fullmatch(r" +# (.*)", line)):  # a comment that continues
            found[-1] = Setting(found[-1].name, found[-1].default, f"{found[-1].meaning} {more[1]}")
        elif setting := re.fullmatch(r"( *)(\w+):(?: +([^#]*?))?(?: *# (.*))?", line):
            indent, name, default, meaning = setting.groups()
            if default is None:
                parent = f"{name}."
            elif not indent or not any("_target_" in each for each in lines):
                found.append(Setting(f"{parent if indent else ''}{name}", default, meaning or ""))
    return tuple(each for each in found if each.name not in ("_target_", "curve"))


def tables(only: str | None = None) -> dict[str, str]:
    """Every table by the name of its mark; with `only`, that one alone."""
    made = {
        "methods": lambda: table(methods()),
        "quantizers": lambda: table(quantizers(), BITS_AXES),
        "refused": refused_table,
        **{f"members:{group}": partial(members_table, group) for group in GROUPS},
    }
    return {name: make() for name, make in made.items() if only in (None, name)}


def main() -> None:
    """Print a table, or put tables into a file between their marks."""
    parser = argparse.ArgumentParser(description="Print the table of presets, or another.")
    parser.add_argument("--members", choices=GROUPS, help="print the members of an axis instead")
    parser.add_argument("--refused", action="store_true", help="print the products of axes that are refused, and why")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put every table that FILE has marks for into it")
    arguments = parser.parse_args()
    if arguments.write is None:
        name = f"members:{arguments.members}" if arguments.members else "refused" if arguments.refused else "methods"
        print(tables(name)[name])
        return
    try:
        _write(arguments.write)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def _write(path: Path) -> None:
    content = path.read_text()
    made = {name: text for name, text in tables().items() if f"<!-- {name} -->" in content}
    if not made:
        raise ValueError(f"{path}: has no marks such as <!-- methods --> and <!-- end -->")
    for name, text in made.items():
        files.put(path, name, text)


if __name__ == "__main__":
    main()
