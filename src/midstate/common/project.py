"""The checkout: its folders and its commit."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
# conf/ lies in the package if the package is installed as a copy; else (editable, or by PYTHONPATH) in the checkout.
_INSTALLED = Path(__file__).parents[1] / "conf"
CONF = _INSTALLED if _INSTALLED.is_dir() else ROOT / "conf"
LOCAL = ROOT / "local"  # a user's own members: modules, and their configurations in local/conf


def member_folders() -> list[Path]:
    """Folders of the groups' members, the shipped ones first."""
    return [folder for folder in (CONF, LOCAL / "conf") if folder.is_dir()]


# What a run's numbers come from; the tables in results/ do not count, since a sweep writes them between its runs.
_CODE = ("src", "conf", "scripts", "train.py")


@cache
def git_commit() -> str | None:
    """Commit of the code, with `+` for uncommitted changes to tracked code or configuration; None outside a checkout.

    Asked once a process, because imported code does not change.
    """
    if CONF == _INSTALLED:  # any repository around it is not ours
        return None
    commit = git(ROOT, "describe", "--always", "--exclude=*", "--abbrev=12")
    return commit and commit.strip() + ("+" if git(ROOT, "diff", "--name-only", "HEAD", "--", *_CODE) else "")


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails, or there is no git."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotepath=off", *arguments],
            cwd=folder, capture_output=True, text=True, errors="replace", check=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
