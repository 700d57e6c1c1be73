"""The commit that runs note, in git repositories of the test's own."""

import shutil
import subprocess
import sys

import pytest

from midstate.common.project import ROOT


def git(folder, *arguments):
    named = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit_by(folder, module="src/midstate/common"):
    """What a new process, which has nothing cached, takes for the commit."""
    code = "import project; print(project.git_commit())"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder / module, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository with a module `project`, and one file in each place; and its commit."""
    for name in ("src/midstate/common/project.py", "conf/config.yaml", "train.py", "results/runs.csv", "README.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    shutil.copy(ROOT / "src/midstate/common/project.py", tmp_path / "src/midstate/common/project.py")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "all")
    return tmp_path, git(tmp_path, "rev-parse", "HEAD")[:12]


def test_the_commit_of_a_clean_checkout(checkout):
    folder, commit = checkout
    assert commit_by(folder) == commit


@pytest.mark.parametrize("name", ["conf/config.yaml", "train.py", "src/midstate/common/project.py"])
def test_changed_code_or_configuration_is_marked(checkout, name):
    folder, commit = checkout
    with (folder / name).open("a") as file:
        file.write("\n# changed\n")
    assert commit_by(folder) == commit + "+"


def test_a_change_that_is_staged_is_marked_too(checkout):
    folder, commit = checkout
    (folder / "train.py").write_text("changed")
    git(folder, "add", ".")
    assert commit_by(folder) == commit + "+"


def test_tables_and_pages_that_a_sweep_writes_mark_no_run(checkout):
    """A second sweep's runs are of the same code, whatever the first one wrote."""
    folder, commit = checkout
    (folder / "results/runs.csv").write_text("more rows")
    (folder / "README.md").write_text("more verdicts")
    assert commit_by(folder) == commit


def test_a_file_whose_date_alone_is_new_marks_nothing(checkout):
    folder, commit = checkout
    (folder / "train.py").write_text("train.py")
    assert commit_by(folder) == commit


def test_a_folder_without_git_has_no_commit(checkout):
    folder, _ = checkout
    shutil.rmtree(folder / ".git")
    assert commit_by(folder) == "None"


def test_an_installed_copy_does_not_take_the_repository_around_it_for_its_own(checkout):
    folder, _ = checkout
    installed = folder / "venv/lib/python3.11/site-packages/midstate"
    (installed / "conf").mkdir(parents=True)
    (installed / "common").mkdir()
    shutil.copy(ROOT / "src/midstate/common/project.py", installed / "common/project.py")
    assert commit_by(folder, installed / "common") == "None"
