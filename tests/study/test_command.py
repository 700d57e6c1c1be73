"""What `scripts/reproduce.py` refuses, and what a cell of one's own is compared with; nothing is run here."""

from pathlib import Path

import pytest

from midstate.study.claims import read_claims
from midstate.study.command import _with_overrides, main
from midstate.study.report import write_claims
from midstate.study.tables import read_pilot


def test_verdicts_of_ones_own_runs_do_not_go_into_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--only", "C2", "--readme"]) == 2
    assert "add --report" in capsys.readouterr().err
    assert main(["--verify", "--results", "elsewhere"]) == 2
    assert "elsewhere/claims.csv is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only", "C8", "--scale", "full", "--seeds", "11"],
            "--seeds=11: C8 has 10 at scale full, set down in advance",
        ),
        (
            ["--only", "C12", "--arms", "fashion/*", "--scale", "full", "--seeds", "30", "--dry-run"],
            "--seeds=30: C12 has 20 at scale full, set down in advance",
        ),
        (["--report", "--only", "C2", "--seeds", "3"], "--seeds, --only: not with --report"),
        (["--only", "C2", "--results", "file"], "--results=file: must be a folder"),
        (["--only", "C2", "--scale", "paper", "data.size=28"], "scale='paper': C2 has only"),
    ],
)
def test_what_would_have_no_effect_is_refused_before_anything_is_run(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report", "--dry-run"], "argument --dry-run: not allowed with argument --report"),
        (["--seeds", "two"], "argument --seeds: two: must be a whole number, 1 or more"),
    ],
)
def test_a_command_line_that_contradicts_itself_is_refused(capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_arms_that_are_never_judged_may_have_more_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--only", "C2", "--arms", "c2_bits_ddq", "--seeds", "9", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("quick: 18 runs")  # with the dense ones


def test_rows_that_count_as_done_are_those_of_the_scale(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--only", "C5", "--scale", "pilot", "--dry-run"]) == 0
    assert "0 of these count as done, having a row in results/pilot.csv" in capsys.readouterr().out


def test_a_cell_of_ones_own_ends_its_pilot_on_validation_images_and_has_its_own_gates():
    (claim,) = read_claims(["C5"])
    typed = _with_overrides(claim, "quick", ["data.size=28"], 8)
    assert typed.cells("quick") == [("data.size=28",)]
    assert len(typed.seeds("quick")) == 8
    for own in (typed, _with_overrides(claim, "pilot", ["data.size=28"], None)):
        assert own.cells("pilot") == [("trainer.final_images=validation", "data.size=28")]
        assert own.seeds("pilot") == claim.seeds("pilot")


def test_a_folder_without_a_pilot_has_that_of_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_pilot(Path("own")).empty
    for folder, arm in (("results", "theirs"), ("own", "mine")):
        Path(folder).mkdir()
        assert set(read_pilot(Path("own")).arm) == ({"theirs"} if folder == "own" else set())
        (Path(folder) / "pilot.csv").write_text(f"arm,overrides,seed,claims\n{arm},,1,\n")
    assert set(read_pilot(Path("own")).arm) == {"mine"}


def test_an_empty_folder_is_verified(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_claims([], tmp_path / "claims.csv")
    assert main(["--verify", "--only", "C2", "--results", "."]) == 0
    assert "all agrees" in capsys.readouterr().out
