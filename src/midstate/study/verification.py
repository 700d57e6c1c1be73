"""A check that anybody can make: verdicts from the committed rows, and the order of commits."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from math import isclose, isnan
from pathlib import Path
from typing import Any

import pandas as pd

from midstate.common.project import CONF
from midstate.common.secrets import say
from midstate.study import history, verdicts
from midstate.study.claims import Claim, read_all
from midstate.study.drawing import Tables
from midstate.study.stray import stray
from midstate.study.tables import read_pilot

TOLERANCE = 6e-6  # relative: claims.csv has six digits, so rounding takes 5e-6, and other machines get 1e-6


@dataclass
class Findings:
    """Findings on one claim: lines to print, and whether any of them is a difference."""

    lines: list[str] = field(default_factory=list)
    differs: bool = False

    def add(self, line: str, differs: bool = False) -> None:
        """Add a line."""
        self.lines.append(f"DIFFERS: {line}" if differs else line)
        self.differs |= differs


def verify(results: Path, claims: list[Claim]) -> bool:
    """Print what a recomputation of every verdict and the order of commits show; tell whether all agrees."""
    tables = Tables.read(results)
    committed = pd.read_csv(results / "claims.csv", dtype={"git": str})
    whole, pilot = history.is_whole(CONF), read_pilot(results)
    differing = []
    for claim in claims:
        found = Findings()
        own = committed[(committed.claim == claim.claim) & (committed.edition == claim.edition)]
        _compare(claim, tables.runs, pilot, own, found)
        _compare_order(claim, tables.runs, whole, found)
        say("\n    ".join([f"{claim.claim} {claim.title}, edition {claim.edition}", *found.lines]))
        differing += [claim.claim] if found.differs else []
    lines = stray([*read_all(), *claims], tables)
    say("\n    ".join(["rows that no claim plans:", *(lines or ["none"])]))
    say(f"differs: {', '.join(differing)}" if differing else "all agrees")
    return not differing


def _compare(claim: Claim, runs: pd.DataFrame, pilot: pd.DataFrame, committed: pd.DataFrame, found: Findings) -> None:
    """Judge a claim again, and compare with its rows of claims.csv, which are in the same order."""
    again = pd.DataFrame([each.row for each in verdicts.judge([claim], runs, pilot)], columns=list(verdicts.COLUMNS))
    if len(again) != len(committed):
        found.add(f"{len(again)} results follow from the rows, claims.csv has {len(committed)}", differs=True)
        return
    different = [
        f"{new['endpoint']} ({new['scale']}, {new['model']} on {new['data']}): {name} is {old[name]} in claims.csv, "
        f"and {new[name]} follows from the rows"
        for new, old in zip(again.to_dict("records"), committed.to_dict("records"), strict=True)
        for name in again
        if not _equal(new[name], old.get(name))
    ]
    for line in different:
        found.add(line, differs=True)
    if not different:
        found.add(f"{len(again)} results follow from the rows as claims.csv has them" if len(again) else "not run")


def _equal(new: Any, old: Any) -> bool:
    """Tell whether a value is the one that was written with six digits; nothing, NaN and an empty text are the same."""
    new, old = (None if each == "" or (isinstance(each, float) and isnan(each)) else each for each in (new, old))
    if isinstance(new, str) or new is None or old is None:
        return new == old
    return isclose(new, old, rel_tol=TOLERANCE, abs_tol=1e-12)


def _compare_order(claim: Claim, runs: pd.DataFrame, whole: bool, found: Findings) -> None:
    """Compare the commit that set down the digest of a claim's file with the commits of the claim's rows."""
    rows = _rows_of(claim, runs)
    if rows.empty:
        return
    path = _files().get((claim.claim, claim.digest))
    digests = [(each.commit, _digest(each.text)) for each in history.versions(path)] if whole and path else []
    for digest, of_digest in rows.groupby("digest"):
        _compare_digest(claim, str(digest), of_digest, digests, found)


@cache
def _files() -> dict[tuple[str, str], Path]:
    """The file of each claim, by its name and digest."""
    claims = {path: Claim.read(path) for path in CONF.glob("claim/**/c*.yaml")}
    return {(claim.claim, claim.digest): path for path, claim in claims.items()}


def _rows_of(claim: Claim, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of a claim in all its cells, each with the digest of the claim's file when it was run, or none."""
    cells = [verdicts.rows_of(claim, scale, cell, runs) for scale in claim.scales for cell in claim.cells(scale)]
    rows = runs.loc[sorted({index for cell in cells for index in cell.index})]
    if rows.empty:  # without a table there is no column `claims`
        return rows
    return rows.assign(digest=rows.claims.str.extract(rf"\b{claim.claim}-([0-9a-f]+)", expand=False).fillna(""))


def _compare_digest(
    claim: Claim, digest: str, rows: pd.DataFrame, digests: list[tuple[str, str | None]], found: Findings
) -> None:
    explained = not digest or digest == claim.digest or digest in " ".join(claim.changes)
    found.add(f"{len(rows)} rows {_carry(digest, claim.digest, explained)}", differs=not explained)
    if not digests:
        found.add("order of commits not checked: no history")
        return
    decided = set_down(digest or claim.digest, digests)
    if decided is None:
        found.add(f"order of commits: no commit of the file has digest {digest or claim.digest}", differs=True)
        return
    for line, differs in _order(decided, rows):
        found.add(line, differs and bool(digest))  # rows run for another claim need no order here


def _carry(digest: str, now: str, explained: bool) -> str:
    """The digest that rows carry, compared with the file's digest now, in words."""
    if not digest:
        return "carry no digest of it: they were run for other claims"
    if digest == now:
        return f"carry digest {digest}, the file's"
    return f"carry digest {digest}, the file has {now}; its `changes` {'say' if explained else 'do not say'} why"


def _order(decided: str, rows: pd.DataFrame) -> Iterable[tuple[str, bool]]:
    """Lines on whether the commits of rows came after `decided`, each with whether it is a difference."""
    by = {commit: len(each) for commit, each in rows.groupby(rows.git.fillna("none"))}
    order = {commit: history.comes_before(decided, commit.rstrip("+"), CONF) for commit in by}
    after = [commit for commit, is_after in order.items() if is_after]
    if after:
        yield f"set down in {decided[:12]}, before {sum(map(by.get, after))} rows of {', '.join(after)}", False
    for commit in (commit for commit, is_after in order.items() if is_after is False):
        yield f"set down in {decided[:12]}, which does not come before {by[commit]} rows of {commit}", True
    for commit in (commit for commit, is_after in order.items() if is_after is None):
        yield f"order of commits not checked for {by[commit]} rows of {commit}: no such commit here", False


def set_down(digest: str, digests: list[tuple[str, str | None]]) -> str | None:
    """The commit that gave a file a digest, the newest one if several did; None: none did.

    Args:
        digest: to look for.
        digests: commit and the file's digest then, the newest first.
    """
    decided = None
    for commit, each in digests:
        if each == digest:
            decided = commit
        elif decided:
            break
    return decided


def _digest(text: str) -> str | None:
    """The digest that a claim's file had; None where it cannot be read any more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "claim.yaml")
        path.write_text(text)
        try:
            return Claim.read(path).digest
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
