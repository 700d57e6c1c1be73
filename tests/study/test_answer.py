"""The answer says what the verdicts say, whichever they are."""

from itertools import product

import pytest

from midstate.study.answer import answer, remedy, words
from midstate.study.claims import read_claims
from midstate.study.verdicts import INCONCLUSIVE, NO_POWER, NOT_RUN, REFUTED, SUPPORTED, TOO_SMALL

CLAIMS = {claim.claim: claim for claim in read_claims(list(words()["says"]))}
REMEDY = {claim.claim: claim for claim in read_claims(list(words()["remedy"]["says"]))}
EFFECT = "+1.00 [+0.50, +1.50] points"


def rows(**verdicts: str) -> list[dict]:
    """Rows of claims.csv; `refuted down` is an effect below zero."""
    return [row(name, verdict) for name, verdict in verdicts.items()]


def row(name: str, verdict: str) -> dict:
    sign = -1 if verdict.endswith(" down") else 1
    planned = len((CLAIMS | REMEDY)[name].seeds("full"))
    numbers = {"effect": sign * 1.0, "low": sign * 0.5, "high": sign * 1.5, "seeds": planned}
    return {"claim": name, "edition": 2, "scale": "full", "verdict": verdict.removesuffix(" down"), **numbers}


@pytest.mark.parametrize(
    ("verdicts", "begins"),
    [
        ({}, "**Not answered yet.**"),
        ({"C1": NO_POWER, "C11": NO_POWER}, "**Not answered yet.**"),
        (
            {"C1": NO_POWER, "C11": NO_POWER, "C6": NO_POWER},
            "**No answer:** every claim that could give one lacks a",
        ),
        ({"C1": SUPPORTED}, "**Open:**"),
        ({"C1": SUPPORTED, "C11": SUPPORTED, "C6": INCONCLUSIVE}, "**Open:**"),
        ({"C1": SUPPORTED, "C11": SUPPORTED, "C6": REFUTED}, "**Yes, in all that was tested here;**"),
        ({"C1": SUPPORTED, "C11": SUPPORTED, "C6": f"{REFUTED} down"}, "**No, not always:** mixed N:M does worse"),
        ({"C1": SUPPORTED, "C11": SUPPORTED, "C6": SUPPORTED}, "**No, not always:** mixed N:M differs"),
        ({"C1": SUPPORTED, "C11": TOO_SMALL}, "**No, not always:** for weights and filters at equal compute (MACs)"),
        ({"C1": f"{REFUTED} down"}, "**No, not always:** weights and filters allocated non-uniformly do worse"),
        ({"C12": SUPPORTED, "C13": SUPPORTED}, "**Not answered yet.**"),
    ],
)
def test_the_first_words_follow_from_the_verdicts(verdicts, begins):
    assert answer(rows(**verdicts)).startswith(begins)


def test_every_verdict_is_told_with_its_effect_and_every_missing_one_named():
    decided = (SUPPORTED, REFUTED, f"{REFUTED} down", INCONCLUSIVE, TOO_SMALL)
    for name in CLAIMS:
        for verdict in decided[:-1] if name == "C6" else decided:  # equivalence is never too small
            text = answer(rows(**{name: verdict}))
            assert ("-1.00 [-0.50" if verdict.endswith("down") else EFFECT) in text, (name, verdict)
            assert f"({name})" not in text
        for state in (NO_POWER, NOT_RUN):
            text = answer(rows(**{name: state}))
            assert "1.00" not in text
            assert f"({name})" in text.split(f"{state.capitalize()}: ")[1].split(". ")[0]


def test_a_yes_and_a_no_never_stand_together():
    every = (SUPPORTED, REFUTED, f"{REFUTED} down", INCONCLUSIVE, TOO_SMALL, NO_POWER, NOT_RUN)
    for c1, c11, c6 in product(every, every, every):
        text = answer(rows(C1=c1, C11=c11, C6=c6))
        against = c1 in (*every[1:3], TOO_SMALL) or c11 in (*every[1:3], TOO_SMALL) or c6 in (SUPPORTED, every[2])
        assert text.startswith("**No, not always:**") == against, (c1, c11, c6)
        assert text.startswith("**Yes") == ((c1, c11, c6) == (SUPPORTED, SUPPORTED, REFUTED))


def test_what_decides_is_the_planned_cell_of_the_second_edition():
    for other in ({"edition": 1}, {"scale": "quick"}, {"verdict": float("nan")}):
        assert answer([{**row("C1", SUPPORTED), **other}]) == answer([])
    assert answer([{**row("C1", SUPPORTED), "scale": "quick"}, row("C1", TOO_SMALL)]).startswith("**No, not always:**")


def test_the_remedy_is_told_once_one_of_its_verdicts_is_there():
    assert remedy([]) == remedy(rows(C8=NO_POWER, C1=SUPPORTED)) == ""
    text = remedy(rows(C8=SUPPORTED, C9=NO_POWER))
    assert text.startswith("**On the way to 1:16**")
    assert f"between the same sparsities: {EFFECT}. No power: whether blocks are smoother (C9)." in text
    assert text.endswith("Not run: whether blocks end better (C14).")


@pytest.mark.parametrize("name", ["C8", "C9", "C14"])
def test_the_remedy_has_a_sentence_for_every_verdict(name):
    for verdict in (SUPPORTED, REFUTED, INCONCLUSIVE, TOO_SMALL):
        text = remedy(rows(**{name: verdict}))
        assert EFFECT in text
        assert f"({name})" not in text
