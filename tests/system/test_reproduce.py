"""One claim from the command line to its report, and sweeps whose runs fail or are stopped, in real processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from conftest import ROOT, TINY

pytestmark = pytest.mark.slow

REPRODUCE = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), "--edition", "first"]
# The data and lengths of the tests, W&B on.
SMALL = [each for each in TINY if each != "logger=none" and "epochs=" not in each]
SMALL += ["trainer.probe_images=60", "trainer.epochs=2"]  # sensitivities of all layers took ten seconds a run


def reproduce(cwd, *arguments, **more):
    return subprocess.run([*REPRODUCE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, **more)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """C2, two seeds, from nothing to the report."""
    directory = tmp_path_factory.mktemp("reproduce")
    first = reproduce(directory, "--only", "C2", "--seeds", "2", *SMALL)
    assert first.returncode == 0, first.stderr + first.stdout
    return directory, first


def test_a_claim_comes_out_with_tables_figure_and_report(done):
    directory, first = done
    results = directory / "outputs" / "reproduce"
    assert "quick: 4 runs, 0 done, 4 to do" in first.stdout
    runs = pd.read_csv(results / "runs.csv")
    assert sorted(zip(runs.arm, runs.seed, strict=True)) == [
        ("c2_isotropic", 0), ("c2_isotropic", 1), ("c2_resnet20", 0), ("c2_resnet20", 1)
    ]  # fmt: skip
    assert runs.claims.str.contains(r"\bC2-[0-9a-f]{8}\b").all()
    for row in runs.to_dict("records"):
        directory_of = directory / "outputs" / row["arm"] / row["config_hash"] / f"seed{row['seed']}"
        summary = json.loads((directory_of / "summary.json").read_text())
        assert row["top1"] == pytest.approx(summary["top1"], rel=1e-5)
    claims = pd.read_csv(results / "claims.csv")
    assert (claims.claim == "C2").all()
    assert set(claims.verdict.dropna()) <= {"supported", "refuted", "no power", "inconclusive"}
    assert (results / "figures" / "first_c2.png").stat().st_size > 10_000
    assert (results / "figures" / "first_c2.pdf").is_file()
    page = (results / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page  # nothing is loaded from anywhere
    assert "## C2 depth-redundancy" in (results / "REPORT.md").read_text()


def test_it_goes_to_wandb_grouped_by_claim(done):
    directory, _ = done
    assert len(list(directory.glob("outputs/c2_*/*/seed*/wandb/offline-run-*"))) == 4
    (report,) = directory.glob("outputs/wandb/offline-run-*/run-*.wandb")
    assert b"C2" in report.read_bytes()


def test_a_run_of_the_sweep_is_bit_equal_to_the_same_command_by_itself(done, fork):
    directory, _ = done
    (losses,) = directory.glob("outputs/c2_resnet20/*/seed0/losses.csv")
    of_sweep = losses.read_bytes()
    alone = ("experiment=c2_resnet20", *SMALL, "logger=none", "rerun=true")
    assert fork(*alone, cwd=directory, env=dict(os.environ)).returncode == 0
    assert losses.read_bytes() == of_sweep


def test_what_is_finished_is_not_run_again(done):
    directory, _ = done
    again = reproduce(directory, "--only", "C2", "--seeds", "2", "--wandb", "off", *SMALL)
    assert again.returncode == 0
    assert "quick: 4 runs, 4 done, 0 to do" in again.stdout


def test_a_failing_run_leaves_the_others_alone(tmp_path):
    # Learning rates this high end in a loss that is no number; the second claim's runs have none of their own.
    bad = reproduce(
        tmp_path, "--only", "C2", "--seeds", "1", "--wandb", "off", *SMALL, "optimizer.lr=1e30", "logger=none"
    )
    assert bad.returncode == 3
    failed = [line for line in bad.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    assert all("exit status 3: run failed: diverged" in line for line in failed)


def test_a_killed_run_is_reported_and_goes_on_next_time(tmp_path):
    arguments = ["--only", "C2", "--seeds", "1", "--jobs", "2", "--wandb", "off", *SMALL, "logger=none"]
    process = subprocess.Popen(
        [*REPRODUCE, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    victim = _child(process.pid)
    os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 3
    assert errors.count("failed: ") == 1
    assert "killed by SIGKILL" in errors
    again = reproduce(tmp_path, *arguments)
    assert again.returncode == 0
    assert "quick: 2 runs, 1 done, 1 to do" in again.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_the_runs_and_ends_with_75(number, tmp_path):
    arguments = ["--only", "C2", "--seeds", "4", "--wandb", "off", *SMALL[:-1], "trainer.epochs=500", "logger=none"]
    process = subprocess.Popen(
        [*REPRODUCE, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _child(process.pid)
    while not list(tmp_path.glob("outputs/c2_*/*/seed*/checkpoints/step-*.pt")):
        time.sleep(0.1)
    report = tmp_path / "outputs" / "reproduce" / "REPORT.md"
    report.write_text("of an earlier sweep")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "stopped, goes on next time" in output
    # Half of a sweep is no report; how to go on is said instead.
    assert "stopped: 0 of 8 runs are done" in output.splitlines()[-1]
    assert report.read_text() == "of an earlier sweep"
    assert not list(report.parent.glob("*.csv"))
    assert [path for path in tmp_path.glob("outputs/c2_*/*/seed*/summary.json") if '"stopped"' in path.read_text()]


def test_two_sweeps_share_their_runs_and_each_log_has_all_that_was_said(tmp_path):
    arguments = ["--only", "C2", "--seeds", "1", "--wandb", "off", *SMALL, "logger=none"]
    log = tmp_path / "outputs" / "reproduce"
    both = [
        subprocess.Popen(
            [*REPRODUCE, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    logs = list(log.glob("*.log"))
    assert len(logs) == 2
    assert [file.read_text().count("run_dir: ") for file in logs] == [1, 1]  # begun by one of them only
    rows = pd.read_csv(log / "runs.csv")
    assert sorted(rows.arm) == ["c2_isotropic", "c2_resnet20"]


def test_a_sweep_waits_for_a_run_that_another_process_makes(tmp_path):
    arguments = ["--only", "C2", "--seeds", "1", "--wandb", "off", *SMALL[:-1], "trainer.epochs=500", "logger=none"]
    first, second = (
        subprocess.Popen(
            [*REPRODUCE, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    )
    while not list(tmp_path.glob("outputs/c2_*/*/seed*/checkpoints/step-*.pt")):
        time.sleep(0.1)
    for process in (first, second):
        process.send_signal(signal.SIGINT)
    said = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [75, 75]
    assert all("FAILED" not in each for each in said)
    assert sum("another process makes this run" in each for each in said) >= 1


def test_a_signal_to_the_whole_group_stops_a_sweep_as_one_to_itself_does(tmp_path):
    arguments = ["--only", "C2", "--seeds", "2", "--wandb", "off", *SMALL[:-1], "trainer.epochs=500", "logger=none"]
    process = subprocess.Popen(
        [*REPRODUCE, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not list(tmp_path.glob("outputs/c2_*/*/seed*/checkpoints/step-*.pt")):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` and batch systems do
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert output.count("stopped, goes on next time") == 2
    assert errors == ""


# To the process, as by `kill`, and to its group, as by a terminal or `timeout`.
@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGINT, os.killpg)]
)
def test_a_stop_before_the_first_run_has_begun_is_not_lost(number, send, tmp_path):
    arguments = ["--only", "C2", "--seeds", "2", "--wandb", "off", *SMALL[:-1], "trainer.epochs=500", "logger=none"]
    process = subprocess.Popen(
        [*REPRODUCE, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not list(tmp_path.glob("outputs/reproduce/*.log")):
        time.sleep(0.01)
    send(process.pid, number)  # the server that forks is still importing
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "FAILED" not in output
    assert errors == ""
    assert not list(tmp_path.glob("outputs/c2_*/*/seed*/checkpoints/*"))


def _child(pid: int) -> int:
    """The first run that a sweep has begun: a child of the server that forks them."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for server, arguments in _children(pid):
            if "forkserver" in arguments and (forked := _children(server)):
                return forked[0][0]
        time.sleep(0.1)
    raise AssertionError("no run was started")


def _children(pid: int) -> list[tuple[int, str]]:
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [(int(number), arguments) for number, arguments in (line.split(None, 1) for line in listed.splitlines())]


def test_an_arm_that_shows_levels_brings_its_dense_run_along_and_leaves_table_and_figure(tmp_path):
    arms = ["--edition", "second", "--only", "C2", "--arms", "c2_bits_exact"]
    arguments = [*arms, "--seeds", "1", "--wandb", "off", *SMALL, "logger=none", "quantizer.score=weight_error"]
    done = reproduce(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "quick: 2 runs, 0 done, 2 to do" in done.stdout
    results = tmp_path / "outputs" / "reproduce"
    rows = pd.read_csv(results / "levels.csv")
    assert set(rows.arm) == set(pd.read_csv(results / "runs.csv").arm) == {"c2_bits_exact"}  # not what it begins from
    assert len(rows) == 18  # of ResNet-20; stem and classifier have bits of their own
    assert rows.depth.tolist() == list(range(1, 19))
    assert rows.weight_bits.between(2, 8).all()
    assert (results / "figures" / "c2_bits.svg").is_file()
    assert "| bits of weights, budget: size | DDQ | not run |" in (results / "REPORT.md").read_text()
    assert "2 done, 0 to do" in reproduce(tmp_path, *arguments).stdout
