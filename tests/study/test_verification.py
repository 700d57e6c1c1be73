"""The check that anybody can make: on the committed rows, on rows that were touched, and on histories made for it."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from midstate.study import history, registered
from midstate.study.verification import set_down

VERIFY = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), "--verify", "--edition", "first"]


def git(folder, *arguments):
    own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *own, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def results(tmp_path):
    for table in (ROOT / "results").glob("*.csv"):
        shutil.copy(table, tmp_path)
    return tmp_path


def verified(*arguments, cwd=ROOT):
    return subprocess.run([*VERIFY, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_committed_verdicts_follow_from_the_committed_rows():
    done = verified()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DIFFERS" not in done.stdout
    assert done.stdout.splitlines()[-1] == "all agrees"


@pytest.mark.slow
def test_what_was_touched_is_named(results):
    done = verified("--only", "C2", "--results", str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    claims = (results / "claims.csv").read_text().splitlines(keepends=True)
    at = next(index for index, line in enumerate(claims) if line.startswith("C2,1,"))
    before = claims[at]
    claims[at] = before.replace(",no power,", ",supported,").replace(",supported,", ",refuted,")
    assert claims[at] != before
    (results / "claims.csv").write_text("".join(claims))
    runs = (results / "runs.csv").read_text()
    row = next(line for line in runs.splitlines() if line.startswith("c2_resnet20,,0,"))
    (results / "runs.csv").write_text(runs + row.replace("c2_resnet20,,0,", "c2_resnet20,,99,") + "\n")
    done = verified("--only", "C2", "--results", str(results))
    assert done.returncode == 1
    assert "verdict is refuted in claims.csv" in done.stdout
    assert "runs.csv: c2_resnet20, seed 99: no claim plans" in done.stdout
    assert done.stdout.splitlines()[-1] == "differs: C2"


def test_the_commit_that_decides_is_found_through_a_change_of_place_and_of_prose(tmp_path):
    git(tmp_path, "init", "-q")
    commits = []

    def commit(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "-m", "a")
        commits.append(git(tmp_path, "rev-parse", "HEAD"))

    same = "".join(f"line {number} of what a claim says\n" for number in range(20))
    commit("c1.yaml", same + "number 1\n")
    commit("c1.yaml", same + "number 2\n")
    commit("other.txt", "the rows\n")
    (tmp_path / "first").mkdir()
    git(tmp_path, "mv", "c1.yaml", "first/c1.yaml")
    commit("first/c1.yaml", same + "number 2\nprose\n")
    moved = history.versions(tmp_path / "first" / "c1.yaml")
    assert [version.commit for version in moved] == [commits[3], commits[1], commits[0]]
    digests = [(version.commit, version.text.split("number ")[1][0]) for version in moved]
    assert set_down("2", digests) == commits[1]  # not the change of its place
    assert set_down("1", digests) == commits[0]
    assert set_down("3", digests) is None
    assert history.comes_before(commits[1], commits[2][:12], tmp_path)
    assert history.comes_before(commits[2], commits[2], tmp_path)
    assert history.comes_before(commits[2], commits[1], tmp_path) is False
    assert history.comes_before(commits[2], "0123456789ab", tmp_path) is None
    assert history.is_whole(tmp_path)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{tmp_path}", str(clone))
    assert not history.is_whole(clone)


@pytest.mark.slow
def test_without_history_the_order_is_called_not_checked(tmp_path, results):
    place = tmp_path / "download"  # without .git
    for name in ("conf", "scripts", "src"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    arguments = ["--verify", "--edition", "first", "--only", "C2", "--results", str(results)]
    command = [sys.executable, "scripts/reproduce.py", *arguments]
    environment = {"PYTHONPATH": str(place / "src"), "PATH": "/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "order of commits not checked: no history" in done.stdout


def test_the_preregistration_shows_claims_and_pilot_as_they_are():
    page = registered.PAGE.read_text()
    assert registered.table() in page
    assert registered.gates() in page
