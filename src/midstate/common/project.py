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


@cache
def git_commit() -> str | None:
    """Commit of the code, with `+` for uncommitted changes to tracked files; None outside a checkout.

    Asked once a process, because imported code does not change.
    """
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
