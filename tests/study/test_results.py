"""What is committed under results/ follows from the runs, the runs from the code and the claims as they are."""

import hashlib
import shutil

import pandas as pd
import pytest
from conftest import ROOT

from midstate.runs.identity import NUMERICS
from midstate.study import verdicts
from midstate.study.claims import read_claims
from midstate.study.readme import readme_table
from midstate.study.report import write_report
from midstate.study.tables import read_runs

RESULTS = ROOT / "results"
# Of claims.csv as it was when there was one edition.
FIRST_EDITION = "76f94af09b5ab841babda34b7e00c103f791b6b19325eae829a523976a7e1a74"
RUNS = read_runs(RESULTS)


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The report, built from the committed tables."""
    directory = tmp_path_factory.mktemp("results")
    for table in RESULTS.glob("*.csv"):
        shutil.copy(table, directory)
    (directory / "claims.csv").unlink()
    write_report(directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("name", ["claims.csv", "REPORT.md"])
def test_verdicts_and_report_recompute_identically(again, name):
    assert (again / name).read_text() == (RESULTS / name).read_text()


@pytest.mark.slow
def test_every_figure_is_there_and_small(again):
    drawn = sorted(path.name for path in (again / "figures").iterdir())
    assert drawn == sorted(path.name for path in (RESULTS / "figures").iterdir())
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < 20e6


def test_rows_are_of_commits_and_of_the_numerics_as_they_are():
    assert set(RUNS.numerics) == {NUMERICS}
    assert set(RUNS.git[~RUNS.git.str.fullmatch("[0-9a-f]{12}")]) == set()  # `+`: of a changed tree


def test_rows_carry_the_claims_as_committed():
    editions = [{claim.claim: claim for claim in read_claims(edition=number)} for number in (1, 2)]
    for row in RUNS.itertuples():
        claims = editions[row.arm.startswith("fashion/")]
        for tag in row.claims.split():
            name, _, digest = tag.partition("-")
            # A claim that was changed since names the digest it had, and says why.
            assert digest == claims[name].digest or digest in " ".join(claims[name].changes), (row.arm, row.seed)
        tagged = {tag.partition("-")[0] for tag in row.claims.split()}
        # The claims that asked for it: none where it only lent its weights, not those that came to share it later.
        of_claims = [(*claims[name].all_arms, *claims[name].level_arms) for name in tagged]
        assert all(row.arm in arms for arms in of_claims), (row.arm, row.seed)


def test_the_readme_shows_the_verdicts():
    assert f"<!-- claims -->\n{readme_table(RESULTS)}\n<!-- end -->" in (ROOT / "README.md").read_text()


def test_the_verdicts_of_the_first_edition_are_those_of_before():
    table = pd.read_csv(RESULTS / "claims.csv", dtype={"git": str})
    first = table[table.edition == 1].drop(columns="edition")
    text = first.to_csv(index=False, float_format="%.6g")
    assert hashlib.sha256(text.encode()).hexdigest() == FIRST_EDITION


def test_every_claim_with_runs_has_a_verdict():
    table = pd.read_csv(RESULTS / "claims.csv")
    assert tuple(table.columns) == verdicts.COLUMNS
    judged = set(table.claim[table.verdict.notna() & (table.edition == 1)])
    complete = {
        claim.claim
        for claim in read_claims(edition=1)
        if all((RUNS[RUNS.overrides == ""].arm == arm).sum() > 1 for arm in claim.endpoint.arms + claim.control.arms)
    }
    assert judged == complete
