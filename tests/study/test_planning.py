"""Plans: which runs the claims need, each once, each where train.py itself would put it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from conftest import ROOT, composed

from midstate.runs.plan import Plan
from midstate.study import planning
from midstate.study.claims import PILOT, read_all, read_claims
from midstate.study.command import main
from midstate.study.planning import identity, plan_runs, with_parents
from midstate.study.tables import read_pilot, read_runs

QUICK = 660  # runs at most
# As the identities on record and the committed runs have it; their `auto` depends on the machine.
PINNED = ("trainer.device=cpu", "trainer.threads=1")


def on_one_thread(claim):
    cells = [[*cell, *PINNED] for cell in claim.cells("quick")]
    return replace(claim, scales={"quick": {**claim.scales["quick"], "cells": cells}})


def planned(claim):
    return plan_runs(map(on_one_thread, read_claims([claim], edition=1)), "quick", num_seeds=1)


@pytest.mark.slow
def test_the_plan_of_the_first_edition():
    """One test, since it is composed once in a process, which takes a minute."""
    claims = read_claims(edition=1)
    runs = plan_runs(map(on_one_thread, claims), "quick")
    assert_as_small_as_it_has_to_be(runs)
    assert_every_arm_has_its_seeds(runs, claims)
    assert_identities_are_those_on_record({run.experiment: run.config_hash for run in runs})
    assert_committed_rows_are_of_the_code_as_it_is()


def assert_as_small_as_it_has_to_be(runs):
    assert len(runs) <= QUICK
    assert len({run.directory for run in runs}) == len(runs)


def assert_every_arm_has_its_seeds(runs, claims):
    for claim in claims:
        for arm in claim.all_arms:
            assert {run.seed for run in runs if run.experiment == arm} >= set(claim.seeds("quick"))


def assert_identities_are_those_on_record(found):
    """Where an experiment becomes another run, its results are no longer its own; see tests/runs/test_identities.py."""
    folder = ROOT / "conf" / "experiment"
    names = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("**/*.yaml")}
    papers = [name for name in names - {*found} if "base" not in name.split("/")]
    found |= {name: identity(name, PINNED)[0] for name in papers}
    on_record = json.loads((ROOT / "tests" / "identities.json").read_text())["experiments"]
    different = {name: (on_record.get(name), found.get(name)) for name in {*on_record, *found}}
    assert {name: pair for name, pair in different.items() if len(set(pair)) > 1} == {}


def assert_committed_rows_are_of_the_code_as_it_is():
    """Where numerics or experiments change, runs are made again rather than kept."""
    rows = read_runs(ROOT / "results")
    cells = rows.groupby(["arm", "overrides", "device", "threads"]).config_hash.unique()
    for (arm, overrides, device, threads), hashes in cells.items():
        place = (f"trainer.device={device}", f"trainer.threads={threads}")
        assert list(hashes) == [identity(arm, (*overrides.split(), *place))[0]], arm  # mostly composed before


def test_every_experiment_is_an_arm_of_some_claim_or_was_tried_by_the_pilot():
    folder, tried = ROOT / "conf" / "experiment", set(read_pilot(ROOT / "results").arm)
    for edition, pattern in ((1, "*.yaml"), (2, "fashion/*.yaml")):
        claims = read_claims(edition=edition)
        arms = {arm for claim in claims for arm in (*claim.all_arms, *claim.scales.get(PILOT, {}).get("arms", ()))}
        others = {arm for claim in read_all() for arm in claim.level_arms} if edition == 1 else tried
        assert arms | others == {path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob(pattern)}


def test_every_base_is_one_that_arms_or_other_bases_name():
    folder = ROOT / "conf" / "experiment"
    bases = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("**/base/*.yaml")}
    lists = [yaml.safe_load(path.read_text()).get("defaults", []) for path in folder.rglob("*.yaml")]
    named = {each.removeprefix("/experiment/") for choices in lists for each in choices if isinstance(each, str)}
    assert bases <= {each if "/" in each else f"base/{each}" for each in named}


@pytest.mark.slow
def test_parents_come_before_the_runs_that_begin_with_their_weights():
    seen, runs = set(), planned("C4")
    for run in runs:
        assert run.parent is None or run.parent.directory in seen
        seen.add(run.directory)
    assert any(run.parent for run in runs)


@pytest.mark.slow
def test_what_begins_with_missing_weights_brings_their_run_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nothing is finished here
    runs = planned("C4")
    (child,) = [run for run in runs if run.experiment == "c3_weights_uniform_30"]
    assert with_parents([child]) == [child.parent, child]
    assert with_parents([child, child.parent]) == [child.parent, child]


@pytest.mark.slow
def test_a_run_with_the_scheme_of_another_brings_that_one_along_and_its_parent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = planned("C1")
    (child,) = [run for run in runs if run.experiment == "c1_widths_global_60"]
    assert [run.experiment for run in with_parents([child])] == ["c1_dense", "c1_filters_global_60", child.experiment]
    assert child.arguments[4] == f"pruner.scheme={child.parent.directory.parent}"


def test_a_finished_run_needs_no_parent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (child,) = [run for run in planned("C4") if run.experiment == "c3_weights_uniform_30"]
    child.directory.mkdir(parents=True)
    (child.directory / "summary.json").write_text('{"status": "finished"}')
    assert with_parents([child]) == []


def test_shared_arms_are_run_once_and_know_their_claims():
    claims = [on_one_thread(claim) for claim in read_claims(["C9", "C10"], edition=1)]
    runs = plan_runs(claims, "quick", num_seeds=1, arms="c10_default")
    (shared,) = [run for run in runs if run.experiment == "c10_default"]
    assert [claim.partition("-")[0] for claim in shared.claims] == ["C9", "C10"]


@pytest.mark.parametrize("experiment", ["c10_default", "c6_sensitivity", "c5_deep_down", "c7_swaps"])
def test_identities_are_those_of_train(experiment, monkeypatch):
    monkeypatch.chdir(ROOT)  # scheme files are named from there
    assert identity(experiment, ("seed=0",))[0] == Plan.of(composed(f"experiment={experiment}")).hash
    other = identity(experiment, ("trainer.epochs=15", "data=digits"))[0]
    assert other == Plan.of(composed(f"experiment={experiment}", "trainer.epochs=15", "data=digits")).hash


@pytest.mark.slow
def test_a_cell_moves_the_parent_with_the_data_but_not_with_the_recipe():
    (claim,) = read_claims(["C3"], edition=1)
    assert ("model=resnet20",) in claim.cells("full")
    runs = plan_runs([replace(claim, scales={"full": {"cells": [["model=resnet20"]]}})], "full", num_seeds=1)
    children = [run for run in runs if run.parent]
    assert {run.parent.overrides for run in children} == {("model=resnet20",)}
    assert identity("c1_dense_finetuned", ("optimizer.lr=0.1",))[0] != identity("c1_dense_finetuned", ())[0]


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["full", "paper"])
def test_every_cell_of_the_other_scales_composes(scale, monkeypatch):
    monkeypatch.chdir(ROOT)
    for claim in read_claims(edition=1):
        for cell in claim.cells(scale):
            arms = claim.arms_in(cell)
            for arm in (claim.endpoint.arms[0], claim.control.arms[0], arms[-1]):
                assert arm in arms
                assert identity(arm, cell)


def test_a_scale_that_a_claim_does_not_have_is_refused_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--only", "C2", "--scale", "paper", "seed=1"]) == 2
    assert capsys.readouterr().err == "configuration error: scale='paper': C2 has only pilot, quick, full\n"


@pytest.mark.slow
def test_a_damaged_summary_counts_as_unfinished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = planned("C10")[0]
    run.directory.mkdir(parents=True)
    (run.directory / "summary.json").write_text('{"status": "fini')
    assert not run.finished


def test_a_dry_run_prints_what_would_be_run_and_runs_nothing(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["--edition", "first", "--only", "c5", "--seeds", "1", "--dry-run"]) == 0
    first, missing, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("quick: 6 runs, ")
    assert missing.startswith("with --missing: ")
    assert {line.split()[-3] for line in lines} == set(read_claims(["C5"], edition=1)[0].all_arms)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "C16"], "only=C16: must be of C1"),
        (["--edition", "first", "--only", "C12"], "only=C12: must be of C1"),
        (["--only", "C2", "data=clutte"], "Could not find 'data/clutte'"),
        (["--only", "C2", "trainer.epochs=0"], "trainer.epochs=0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_run(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_script_answers_with_that_status_and_no_traceback(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), "--only", "C16"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("configuration error: only=C16: must be of C1")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_arms_that_show_levels_are_run_where_they_are_named_and_nowhere_else(monkeypatch):
    (claim,), reads = read_claims(["C2"]), []
    assert not {arm for each in read_all() for arm in each.all_arms if arm.startswith("c2_bits")}
    monkeypatch.setattr(planning, "read_all", lambda: reads.append(1) or read_all())
    planning._tags.cache_clear()
    runs = plan_runs([claim], "quick", arms="c2_bits_exact*")
    assert len(reads) == 1  # for all arms
    assert [run.experiment for run in runs if run.seed == 4] == ["c2_resnet20", "c2_bits_exact", "c2_bits_exact_bitops"]
    assert len(runs) == 15
    assert all(run.claims == (f"C2-{claim.digest}",) for run in runs if run.experiment.startswith("c2_bits"))


def test_a_name_of_no_arm_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"arms='c2_bit': matches none of fashion/depth_skips, .*c2_bits_haq_deepest"):
        plan_runs(read_claims(["C2"]), "quick", arms="c2_bit")


@pytest.mark.slow
def test_data_that_are_missing_are_told_before_anything_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ("data=mnist", "data.root=nowhere", "data.download=false")
    assert main(["--only", "C14", "--seeds", "1", *settings]) == 2
    assert "configuration error: data of fashion/ramp_blocks: root='nowhere': MNIST" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
