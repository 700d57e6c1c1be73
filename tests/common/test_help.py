"""`python train.py --help` as a user asks for it: answered from the folders of members, without Hydra."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from midstate.common.help import asked, families

CONF = ROOT / "conf"


def shown(text):
    """What stands behind each group's name, its lines joined."""
    lines = re.sub(r"\n {4,}", " ", text).splitlines()
    rows = [re.fullmatch(r"([a-z/]+): (.+)", line) for line in lines[lines.index("") :]]
    return {row[1]: row[2].split(", ") for row in rows if row}


@pytest.fixture
def project(tmp_path):
    """A copy of the project's `train.py` and `conf`, to put files of a user's own beside; and its `--help`."""
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(ROOT / "train.py", root)
    (root / "conf").symlink_to(CONF)

    def ask(**environment):
        done = subprocess.run(
            [sys.executable, str(root / "train.py"), "--help"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
            capture_output=True,
            cwd=tmp_path,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    return root, ask


def test_help_shows_every_group_and_member_in_lines_that_fit(start, tmp_path):
    done = start("--help")
    assert (done.returncode, done.stderr) == (0, "")
    rows, named, in_families = shown(done.stdout), 0, 0
    for path in CONF.glob("*/**/*.yaml"):
        group, _, member = path.relative_to(CONF).with_suffix("").as_posix().rpartition("/")
        if path.parent.name == "base":
            assert f"base/{member}" not in done.stdout  # what arms share, no arms
            continue
        if group.partition("/")[0] == "claim":
            assert group not in rows  # scripts/reproduce.py reads it
            continue
        if group.partition("/")[0] == "experiment":
            member = path.relative_to(CONF / "experiment").with_suffix("").as_posix()
            if member not in rows["experiment"]:
                family = re.escape(member.partition("_")[0])
                assert any(re.fullmatch(rf"{family}_\* \(\d+\)", each) for each in rows["experiment"]), member
                in_families += 1
                continue
            group = "experiment"
        assert member in rows[group]
        named += 1
    counted = [int(count) for count in re.findall(r"_\* \((\d+)\)", done.stdout)]
    assert sum(counted) == in_families
    assert sum(map(len, rows.values())) == named + len(counted)  # and nothing else
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert list(tmp_path.iterdir()) == []


def test_the_words_around_the_groups_are_those_of_hydras_template(start):
    before, after = OmegaConf.load(CONF / "train.yaml").hydra.help.template.split("$APP_CONFIG_GROUPS")
    text = start("--help").stdout
    assert text.startswith(before)
    assert text.endswith(after)
    assert text.count("python train.py ") == 3


def test_help_imports_neither_hydra_nor_what_is_heavy(tmp_path):
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "-m", "pruner=nm", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "midstate" in imported
    assert not imported & {"hydra", "omegaconf", "yaml", "antlr4", "torch", "numpy", "wandb", "matplotlib"}


@pytest.mark.parametrize(
    ("arguments", "ours"),
    [
        ("--help", True),
        ("-h", True),
        ("--hel", True),
        ("pruner=typo --help seed=1", True),
        ("-m pruner=nm,nm_step -h", True),
        ("", False),
        ("pruner=nm", False),
        ("-m pruner=nm", False),
        ("--hydra-help", False),
        ("--cfg job", False),
        ("--info defaults-tree", False),
        ("-sc install=bash", False),
        ("--help --config-dir mine", False),
        ("--help --version", False),
        ("-- --help", False),
    ],
)
def test_other_options_are_answered_by_hydra(arguments, ours):
    assert asked(arguments.split()) == ours


@pytest.mark.slow
def test_members_of_a_further_folder_are_shown_by_hydra(start, tmp_path):
    (tmp_path / "mine" / "pruner").mkdir(parents=True)
    (tmp_path / "mine" / "pruner" / "of_mine.yaml").touch()
    done = start("--help", "--config-dir", "mine")
    assert done.returncode == 0, done.stderr
    assert "of_mine" in shown(done.stdout)["pruner"]


def test_members_of_the_users_own_folder_are_shown(project):
    root, ask = project
    before = shown(ask())
    for path in ("pruner/criterion/mine", "experiment/mine", "experiment/c10_mine", "experiment/own/one", "extra/some"):
        file = root / "local" / "conf" / f"{path}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    after = shown(ask())
    assert set(after["pruner/criterion"]) == {*before["pruner/criterion"], "mine"}
    count = len(list(CONF.glob("experiment/c10_*.yaml")))
    added = {"mine", "own/one", f"c10_* ({count + 1})"}
    assert set(after["experiment"]) == {*before["experiment"], *added} - {f"c10_* ({count})"}
    assert after["extra"] == ["some"]
    others = {*after} - {"pruner/criterion", "experiment", "extra"}
    assert all(after[group] == before[group] for group in others)


def test_a_terminal_of_few_letters_is_given_what_it_can_show(project):
    root, ask = project
    folder = root / "local" / "conf" / "pruner"
    folder.mkdir(parents=True)
    (folder / "中间.yaml").touch()
    assert r"\u4e2d\u95f4" in ask(PYTHONIOENCODING="ascii")
    assert "中间" in shown(ask(PYTHONIOENCODING="utf-8"))["pruner"]


def test_families_are_counted_and_single_names_stay():
    names = ["c1_a", "c1_b", "c1_c_d", "c10_a", "c10_b", "plain", "own_one", "base/c1_a", "base/c1_b"]
    assert families(names) == ["c1_* (3)", "c10_* (2)", "plain", "own_one", "base/c1_* (2)"]


@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_help_that_nobody_reads_to_its_end_is_no_failure(reader, tmp_path):
    script = f'"{sys.executable}" "{ROOT / "train.py"}" --help | {reader}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Error:" not in done.stderr


@pytest.mark.parametrize("place", ["/dev/full", "&-"])
def test_help_onto_a_full_disk_or_no_output_at_all_is_no_failure(place, tmp_path):
    script = f'"{sys.executable}" "{ROOT / "train.py"}" --help >{place}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
