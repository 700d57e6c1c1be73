"""`train.py --help`, answered from the folders of members before Hydra is imported.

Hydra would first copy its whole store of configurations once for each group, which takes longer than importing torch
where the plugins of the sweep extras are installed. For the same reason only light modules are imported here.
"""

import os
import re
import sys
from pathlib import Path
from textwrap import dedent, fill

from midstate.common.secrets import flush_output, say

FOLDERS = ("conf", "local/conf")
WIDTH = 100
_ASKS = ("-h", "--help", "--hel", "--he")  # argparse takes these abbreviations; --h may be --hydra-help
_BESIDE = ("-m", "--multirun")


def asked(arguments: list[str]) -> bool:
    """Tell whether help is asked for, alone or beside overrides; with another option, Hydra itself answers.

    Overrides are ignored: they do not change the help, and may be what the user has got wrong.
    """
    options = [each for each in arguments if each.startswith("-")]
    return any(each in _ASKS for each in options) and all(each in _ASKS + _BESIDE for each in options)


def show(root: Path) -> int:
    """Print the help of the project at `root`; return the exit status."""
    text = help_text(root)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that the terminal cannot encode
    say(text)
    flush_output()
    return 0


def help_text(root: Path) -> str:
    """The text of `hydra.help.template`, found without a YAML parser, with the groups filled in."""
    config = (root / "conf" / "train.yaml").read_text("utf-8") + "\n"
    block = re.search(r"^( *)template: \|.*\n((?:\1 +.*\n| *\n)+)", config, re.MULTILINE)
    words = dedent(block[2]).rstrip() if block else "$APP_CONFIG_GROUPS"
    members = groups([root / folder for folder in FOLDERS])
    lines = [_line(group, members[group]) for group in sorted(members)]
    return words.replace("$APP_CONFIG_GROUPS", "\n".join(lines) + "\n")


def is_shared(group: str) -> bool:
    """Tell whether a group is a folder of parts that experiments share, not of experiments."""
    return group.startswith("experiment/") and group.endswith("/base")


def groups(folders: list[Path]) -> dict[str, list[str]]:
    """The members of every group, as they are typed after `group=`, from all the folders together."""
    members: dict[str, set[str]] = {}
    for folder in folders:
        for path, _, files in os.walk(folder, followlinks=True):
            group, prefix = os.path.relpath(path, folder).replace(os.sep, "/"), ""
            if is_shared(group) or group.partition("/")[0] == "claim":  # claims are read by scripts/reproduce.py
                continue
            if group.startswith("experiment/"):  # folders of experiments are no groups: experiment=paper/maxq
                group, _, prefix = (group + "/").partition("/")
            if group != "." and (names := [prefix + name[:-5] for name in files if name.endswith(".yaml")]):
                members.setdefault(group, set()).update(names)
    return {group: sorted(names, key=_by_number) for group, names in members.items()}


def families(names: list[str]) -> list[str]:
    """Merge names with the same beginning up to the first underscore, with their count: `c10_* (12)`."""
    beginnings = [name.partition("_")[0] + "_*" if "_" in name else name for name in names]
    counts = {each: beginnings.count(each) for each in beginnings}
    shown = [
        f"{each} ({counts[each]})" if counts[each] > 1 else name for each, name in zip(beginnings, names, strict=True)
    ]
    return list(dict.fromkeys(shown))


def _line(group: str, names: list[str]) -> str:
    """One group as wrapped text; a family and its count stay on one line."""
    if group == "experiment":
        names = families(names)
    text = f"{group}: " + ", ".join(name.replace(" ", "\N{NO-BREAK SPACE}") for name in names)
    wrapped = fill(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return wrapped.replace("\N{NO-BREAK SPACE}", " ")


def _by_number(name: str) -> list[str | int]:
    """Sort c2 before c10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
