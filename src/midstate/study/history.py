"""The history of a file in git: its text in each commit, and which commit came before which."""

from dataclasses import dataclass
from pathlib import Path

from midstate.common.project import git


@dataclass(frozen=True)
class Version:
    """A file as one commit left it."""

    commit: str
    text: str


def is_whole(folder: Path) -> bool:
    """Tell whether a folder lies in a checkout with all of its history, unlike a download or a shallow clone."""
    return git(folder, "rev-parse", "--is-shallow-repository") == "false\n"


def versions(path: Path) -> list[Version]:
    """Every version of a file, under earlier names, too; the newest first."""
    listed = git(path.parent, "log", "--follow", "--name-only", "--format=commit %H", "--", path.name) or ""
    found = []
    for line in filter(None, listed.splitlines()):
        if line.startswith("commit "):
            commit = line.removeprefix("commit ")
        elif (text := git(path.parent, "show", f"{commit}:{line}")) is not None:
            found.append(Version(commit, text))
    return found


def comes_before(earlier: str, later: str, folder: Path) -> bool | None:
    """Tell whether a commit is an ancestor of another, or the same; None where one of them is not known."""
    known = [git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is not None for commit in (earlier, later)]
    return git(folder, "merge-base", "--is-ancestor", earlier, later) is not None if all(known) else None
