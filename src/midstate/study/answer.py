"""The answer to the article's question, composed from verdicts by rule; its words: conf/claim/page/answer.yaml."""

from collections.abc import Iterable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

from midstate.common.files import read_yaml
from midstate.common.project import CONF
from midstate.study.beside import interval
from midstate.study.claims import PLANNED, Claim, read_claims
from midstate.study.verdicts import NO_POWER, NOT_RUN

WORDS = CONF / "claim" / "page" / "answer.yaml"

Row = Mapping[str, Any]  # of claims.csv


@cache
def words() -> dict[str, Any]:
    """The question, a sentence for each verdict, and the schemes of the answer's figure."""
    return read_yaml(WORDS)


def headline(claim: Claim, results: Iterable[Row]) -> Row | None:
    """The row that decides a claim: its first with a verdict, in the second edition at the planned scale."""
    own = [row for row in results if (row["claim"], row["edition"]) == (claim.claim, claim.edition)]
    own = [row for row in own if isinstance(row["verdict"], str) and row["verdict"]]  # NaN: secondary, from a file
    if claim.edition > 1:
        scale = PLANNED if PLANNED in claim.scales else next(iter(claim.scales))  # typed overrides: the typed scale
        own = [row for row in own if row["scale"] == scale]
    return next(iter(own), None)


def answer(results: Iterable[Row], brief: bool = False) -> str:
    """One paragraph for the article's question, from the verdicts of C1, C11, C6, C12 and C13.

    Args:
        results: rows of claims.csv; rows of other claims, editions and scales are ignored.
        brief: leave out effects, claims without an answer and repetitions of the first sentence; a table has them.
    """
    text = words()
    found = _found(text["says"], results)
    verdicts = {name: _verdict(*each) for name, each in found.items()}
    if brief:
        says = {name: _sentence(each, *found[name]) for name, each in text["says"].items()}
        more = [each.replace(": {effect}", "") for name, each in says.items() if each and not _denied(name, verdicts)]
        return " ".join([_lead(verdicts), *more])
    return " ".join([_lead(verdicts), *_told(text, found), text["elegant"].strip()])


def remedy(results: Iterable[Row]) -> str:
    """One paragraph for the article's remedy, blocks as the state, from C8, C9 and C14; empty before any is decided."""
    text = words()["remedy"]
    found = _found(text["says"], results)
    if all(_verdict(*each) in (NO_POWER, NOT_RUN) for each in found.values()):
        return ""
    return " ".join([text["begins"], *_told(text, found)])


Found = Mapping[str, tuple[Claim, Row | None]]  # claim: itself, and the row that decides it


def _found(names: Iterable[str], results: Iterable[Row]) -> Found:
    results = list(results)
    return {claim.claim: (claim, headline(claim, results)) for claim in _claims(tuple(names))}


@cache
def _claims(names: tuple[str, ...]) -> list[Claim]:
    return read_claims(list(names))


def _told(text: Mapping[str, Any], found: Found) -> list[str]:
    """A sentence with its effect for each verdict, then one each for the claims without power and those not run."""
    says = {name: _sentence(each, *found[name]) for name, each in text["says"].items()}
    told = [each.format(effect=_effect(*found[name])) for name, each in says.items() if each]
    verdicts = {name: _verdict(*each) for name, each in found.items()}
    left = [_left(verdicts, state, text["asks"]) for state in (NO_POWER, NOT_RUN)]
    return [*told, *filter(None, left)]


def _verdict(claim: Claim, row: Row | None) -> str:
    """The verdict; of a refuted equivalence with its side, positive or negative."""
    if row is None:
        return NOT_RUN
    if claim.endpoint.test == "equivalence" and row["verdict"] == "refuted":
        return f"refuted, {'positive' if row['effect'] > 0 else 'negative'}"
    return row["verdict"]


def _denied(name: str, verdicts: Mapping[str, str]) -> str:
    """Why a claim's verdict speaks against "always"; empty where it does not."""
    return words()["denied"].get(name, {}).get(verdicts[name], "")


def _lead(verdicts: Mapping[str, str]) -> str:
    """The first sentence: no, if any verdict speaks against "always"; else yes, open or not answered."""
    text = words()
    affirmed = text["affirmed"]
    reasons = [why for name in text["denied"] if (why := _denied(name, verdicts))]
    if reasons:
        return f"**No, not always:** {'; '.join(reasons)}."
    deciding = [verdicts[name] for name in affirmed]
    if all(verdicts[name] in wanted for name, wanted in affirmed.items()):
        return "**Yes, in all that was tested here;** no test can show “always”."
    if all(each in (NOT_RUN, NO_POWER) for each in deciding):
        return "**Not answered yet.**" if NOT_RUN in deciding else text["no_power"].strip()
    return "**Open:** no verdict speaks against it, and not all that would speak for it is decided."


def _sentence(says: Mapping[str, str], claim: Claim, row: Row | None) -> str:
    """The sentence of one verdict, with `{effect}` to fill in; empty if the verdict has none."""
    return says.get(_verdict(claim, row), "")


def _effect(claim: Claim, row: Row) -> str:
    return f"{interval(SimpleNamespace(**row))} {claim.endpoint.unit}"


def _left(verdicts: Mapping[str, str], state: str, asks: Mapping[str, str]) -> str:
    """One sentence with the questions of all claims whose verdict is `state`; empty if there are none."""
    left = [f"{asks[name]} ({name})" for name, verdict in verdicts.items() if verdict == state]
    return f"{state.capitalize()}: {', '.join(left)}." if left else ""
