"""The report's words, by hand."""

import math
import shutil

import pandas as pd
import pytest
from conftest import ROOT
from made_up import VERDICTS, write

from midstate.study.caveats import incomplete, mixed_origins
from midstate.study.claims import read_claims
from midstate.study.measuring import Measured
from midstate.study.reading import Reading
from midstate.study.readme import readme_table
from midstate.study.report import write_report
from midstate.study.section import elsewhere, meaning, needed
from midstate.study.statistics import seeds_needed
from midstate.study.tables import read_runs
from midstate.study.verdicts import TOO_SMALL, Result


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        ([], "not run"),
        ([("supported", 1.234)], "supported in 1 of 1 (+1.23)"),
        (
            [("inconclusive", 0.5), ("supported", 3), ("supported", 1), ("refuted", -2)],
            "supported in 2 of 4 (+1.00 to +3.00), inconclusive in 1 of 4 (+0.50), refuted in 1 of 4 (-2.00)",
        ),
    ],
)
def test_what_was_found_elsewhere_in_a_few_words(judged, words):
    assert elsewhere(judged) == words


def result(mde, sesoi, sd=4.0, seeds=10):
    measured = Measured(effect=3.0, low=1.0, high=5.0, seeds=seeds, mde=mde, sd=sd)
    return Result(
        "C9", 1, "gap", "clutter", "resnet8", "full", measured, sesoi, "shown", "supported", "abc", "points", "a=1"
    )


@pytest.mark.parametrize(("edition", "first"), [(1, 0), (2, 1)])
def test_what_enough_seeds_would_cost(edition, first):
    # Ten seeds of two arms, 900 seconds a run: five hours so far, half an hour a seed.
    rows = [
        {"overrides": "a=1", "seed": seed, "wall_seconds": 900} for seed in range(first, first + 10) for _ in range(2)
    ]
    others = [{"overrides": each, "seed": first + add, "wall_seconds": 1e6} for each, add in (("", 0), ("a=1", 10))]
    runs = pd.DataFrame(rows + others)
    (claim,), seeds = read_claims(["C9"], edition), seeds_needed(4.0, 2.0)
    assert needed(claim, result(mde=4.0, sesoi=2.0), runs) == f"{seeds} (+{(seeds - 10) / 2:.1f} h)"
    assert needed(claim, result(mde=2.0, sesoi=2.0), runs) == ""
    assert needed(claim, result(mde=math.nan, sesoi=2.0), runs) == ""


def test_versions_and_machines_are_named_where_rows_of_one_comparison_differ(tmp_path):
    (claim,) = read_claims(["C10"], edition=1)
    runs = read_runs(ROOT / "results")
    runs = runs[runs.arm.isin(claim.all_arms) & runs.overrides.isin(["", "trainer.epochs=15"])]
    long = runs.overrides != ""
    # A cell of its own: no comparison has both.
    assert mixed_origins(claim, runs.assign(torch=runs.torch.where(long, "2.14.1"))) == []
    mixed = runs.assign(torch="2.15.0").assign(torch=lambda rows: rows.torch.where(long | (rows.seed > 0), "2.14.1"))
    line = "quick, the experiments as they are: rows of torch 2.14.1 and 2.15.0"
    assert mixed_origins(claim, mixed) == [line]
    also = mixed.assign(device=mixed.device.where(mixed.seed > 1, "cuda"))
    assert mixed_origins(claim, also)[0] == f"{line}; of device cpu and cuda"
    for table in (ROOT / "results").glob("*.csv"):
        shutil.copy(table, tmp_path)
    nobodys = mixed.tail(1).assign(arm="c10_dropped", seed=7)  # an arm that no claim plans
    pd.concat([mixed, nobodys]).to_csv(tmp_path / "runs.csv", index=False)
    write_report(tmp_path, [claim])
    for name in ("REPORT.md", "report.html"):
        assert (tmp_path / name).read_text().count(line) == 1
        assert "runs.csv: c10_dropped trainer.epochs=15, seed 7: no claim plans" in (tmp_path / name).read_text()
    assert mixed_origins(claim, runs.drop(columns="torch")) == []


def test_what_is_missing_is_told_from_what_is_done():
    (claim,) = read_claims(["C10"], edition=1)
    runs = read_runs(ROOT / "results")
    runs = runs[runs.overrides == ""]
    planned = len(claim.seeds("quick")) * len(claim.arms_in(()))
    left = runs[runs.arm.isin(claim.all_arms) & (runs.seed < 1)]
    first = f"quick, the experiments as they are: {len(left)} of {planned} runs are done, {planned - len(left)} are not"
    assert incomplete(claim, left)[0] == first
    assert "none of" in incomplete(claim, left)[1]
    assert not [line for line in incomplete(claim, runs) if line.startswith("quick")]


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_a_claim_in_the_report_has_what_was_asked_what_came_out_and_what_makes_it_again(tmp_path):
    write(tmp_path, leave_out="fashion/ramp_random")
    write_report(tmp_path, read_claims(["C5", "C10", "C12", "C14"]))
    for name in ("REPORT.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "python scripts/reproduce.py --scale full --only C5" in text
        assert "4:16 - 1:16, at least 2.5 points: met (5." in text
        assert "first edition" not in text.lower()
    text = (tmp_path / "REPORT.md").read_text()
    assert "| **supported** | +2.5" in line_of(text, "| [C5](#c5)")
    assert "| 1.00 | 0.80 to 2.10 | 20 | 2 |" in line_of(text, "| [C12](#c12)")  # what equal parameters leave free
    assert "**What it means.** There is an effect that matters, and it goes the other way." in text  # C14
    # Nothing is shown of a claim that lacks a seed but what is left to do; what decides C10 has all its seeds.
    assert "| **no power** |" in line_of(text, "| [C10](#c10)")
    assert not (tmp_path / "figures" / "answer.png").exists()


@pytest.mark.parametrize(("low", "begins"), [(0.16, "There is an effect, but"), (-0.16, "If there is an effect, it")])
def test_an_effect_too_small_to_matter_is_said_to_be_there_where_its_interval_leaves_out_zero(low, begins):
    claim = next(each for each in read_claims() if each.claim == "C14")
    measured = Measured(0.27, low, 0.38, 20, 0.15)
    result = Result("C14", 2, "top1", "", "", "full", measured, 0.5, "met", TOO_SMALL, "", "points", "")
    assert meaning(claim, result).startswith(begins)
    assert "smaller than the smallest one of interest, 0.5 points: too small to matter." in meaning(claim, result)


def test_a_gate_that_the_pilot_does_not_meet_decides_without_runs(tmp_path):
    write(tmp_path)
    runs, pilot = (pd.read_csv(tmp_path / name) for name in ("runs.csv", "pilot.csv"))
    pilot.loc[pilot.arm == "fashion/nm_1of16", "top1"] += 4  # 4:16 - 1:16 is 1.5 points
    pilot.to_csv(tmp_path / "pilot.csv", index=False)
    runs[(runs.arm != "fashion/nm_4of16") & (runs.seed < 5)].to_csv(tmp_path / "runs.csv", index=False)
    write_report(tmp_path, read_claims(["C5"]))
    text = (tmp_path / "REPORT.md").read_text()
    assert "| **no power** | not run: a gate is not met in the pilot |" in line_of(text, "| [C5](#c5)")
    assert "4:16 - 1:16, at least 2.5 points: not met (1." in text
    assert "**Came out: no power.** Not run: a gate is not met in the pilot." in text
    assert "Incomplete" not in text
    assert "<strong>Came out:</strong>" in (tmp_path / "report.html").read_text()
    (row,) = pd.read_csv(tmp_path / "claims.csv").to_dict("records")
    assert (row["verdict"], row["control"], row["seeds"]) == ("no power", "not met", 0)
    assert "| C5 | 2:16 to 1:16 loses more than 2:16 to 4:16 gains | no power | – |" in readme_table(tmp_path)
    reading = Reading.of("C5", tmp_path)
    assert reading.figure is None
    assert reading.shown.startswith("**no power**: A condition for the test, a gate, is not met")


def test_a_claim_that_lacks_seeds_is_not_run_and_shows_no_number(tmp_path):
    write(tmp_path)
    runs = pd.read_csv(tmp_path / "runs.csv")
    runs[~((runs.arm == "fashion/nm_4of16") & (runs.seed == 20))].to_csv(tmp_path / "runs.csv", index=False)
    write_report(tmp_path, read_claims(["C5"]))
    text = (tmp_path / "REPORT.md").read_text()
    assert "| **not run** | about 0.0 h to run |" in line_of(text, "| [C5](#c5)")
    assert "Nothing is known yet." in text
    assert "99 of 100 runs are done, 1 is not" in text
    assert "+2.5" not in text
    assert "| `fashion/nm_2of16` | – | C5 | 20 | – |" in text
    assert not (tmp_path / "figures" / "c5.png").exists()


def test_an_arm_of_a_decided_claim_shows_no_top1_that_another_claim_still_waits_for(tmp_path):
    write(tmp_path)
    runs = pd.read_csv(tmp_path / "runs.csv")
    runs[~((runs.arm == "fashion/ramp_blocks_maxq") & (runs.seed == 20))].to_csv(tmp_path / "runs.csv", index=False)
    write_report(tmp_path, read_claims(["C9", "C14"]))
    text = (tmp_path / "REPORT.md").read_text()
    assert "| **not run** |" in line_of(text, "| [C14](#c14)")
    assert "| **not run** |" not in line_of(text, "| [C9](#c9)")
    assert "| – |" in line_of(text, "| `fashion/ramp_n` | – | C9 C14 |")[30:]
    assert "| – |" not in line_of(text, "| `fashion/ramp_blocks_staircase` | – | C9 |")[40:]


@pytest.mark.slow
def test_a_report_of_every_verdict(tmp_path):
    write(tmp_path, leave_out="fashion/depth_plain")  # C2
    expected = VERDICTS | {"C2": "not run"}
    written = write_report(tmp_path)
    assert tmp_path / "figures" / "answer.png" in written
    text, readme = (tmp_path / "REPORT.md").read_text(), readme_table(tmp_path)
    for name, verdict in expected.items():
        assert f"**{verdict}**" in line_of(text, f"| [{name}](#{name.lower()})")
        assert f"| {verdict} |" in line_of(readme, f"| {name} |")
        assert (tmp_path / "figures" / f"{name.lower()}.png").exists() == (verdict != "not run")
    lead = "**No, not always:** for weights and filters at equal compute"
    assert line_of(readme, "**").startswith(lead)
    assert line_of(text, "**").startswith(lead)
    assert "Outside [.99, 1.00]" not in text
    assert "Below 50 % top-1, so diverged, and left in: 98 % of the weights of every layer: 10 of 10 seeds" in text
