"""docs/methods.md: its tables are those of the files, and no paragraph is long."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from midstate import methods

DOCS = (ROOT / "docs" / "methods.md").read_text()
BITS = (ROOT / "docs" / "quantization.md").read_text()


def test_the_tables_are_those_printed():
    for name, text in methods.tables().items():
        of_bits = name.removeprefix("members:").startswith("quantizer")
        page, where = (BITS, "docs/quantization.md") if of_bits else (DOCS, "docs/methods.md")
        assert f"<!-- {name} -->\n{text}\n<!-- end -->" in page, f"python -m midstate.methods --write {where}"
    assert run() == methods.tables()["methods"] + "\n"
    assert run("--members", "path") == methods.tables()["members:path"] + "\n"


def run(*arguments):
    command = [sys.executable, "-m", "midstate.methods", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_tables_are_written_between_their_marks(tmp_path):
    page = tmp_path / "methods.md"
    empty = re.sub(r"(<!-- (?:methods|members:\w+) -->\n).*?(<!-- end -->)", r"\1\2", DOCS, flags=re.DOTALL)
    page.write_text(empty)
    run("--write", str(page))
    assert page.read_text() == DOCS != empty


@pytest.mark.parametrize("group", methods.GROUPS)
def test_members_have_the_settings_of_their_files(group):
    """What is read from the lines of a file is what OmegaConf reads from it."""
    whole = group == "schedule" or "/" in group
    folder = ROOT / "conf" / group if whole else ROOT / "conf" / "pruner" / group
    members = methods.members(group)
    assert [member.name for member in members] == sorted(path.stem for path in folder.glob("*.yaml"))
    for member in members:
        content = OmegaConf.to_container(OmegaConf.load(folder / f"{member.name}.yaml"))
        expected = {}
        for key, value in content.items():
            if not isinstance(value, dict):
                expected[key] = value
            elif "_target_" not in value:  # a window sets others' settings
                expected |= {f"{key}.{name}": each for name, each in value.items()}
        expected = {key: value for key, value in expected.items() if key not in ("_target_", "curve")}
        read = OmegaConf.create("\n".join(f"{each.name}: {each.default}" for each in member.settings))
        assert OmegaConf.to_container(read) == expected
        assert member.what
        assert all(each.meaning for each in member.settings), member.name


@pytest.mark.parametrize("page", [DOCS, BITS], ids=["methods", "quantization"])
def test_no_paragraph_of_the_page_is_a_wall(page):
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if not line.startswith("|")]
        longest = max((len(item.splitlines()) for item in re.split(r"\n(?=- |\d\. )", "\n".join(lines))), default=0)
        assert longest <= 6, paragraph


def test_the_table_of_refused_products_is_the_one_printed():
    command = [sys.executable, "-m", "midstate.methods", "--refused"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"<!-- refused -->\n{done.stdout}<!-- end -->" in DOCS


def test_tables_are_written_where_a_file_has_their_marks(tmp_path, monkeypatch, capsys):
    path = tmp_path / "page.md"
    path.write_text("<!-- refused -->\n<!-- end -->\n")
    monkeypatch.setattr(sys, "argv", ["methods", "--write", str(path)])
    methods.main()
    assert path.read_text() == f"<!-- refused -->\n{methods.refused_table()}\n<!-- end -->\n"
    path.write_text("no marks")
    with pytest.raises(SystemExit):
        methods.main()
    assert "has no marks such as <!-- methods -->" in capsys.readouterr().err


def test_every_preset_names_its_source_settings_and_differences():
    rows = {row["preset"]: row for row in methods.methods()}
    assert set(rows) == {path.stem for path in (ROOT / "conf" / "pruner").glob("*.yaml")}
    for name, row in rows.items():
        assert all(row[fact] for fact in methods.FACTS), name
        if name not in ("dense", "dense_small"):
            assert all(row[axis] for axis in methods.AXES), name


def test_what_is_missing_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "new.yaml").write_text("# A method of somebody.\n# Source: -\ndefaults:\n  - scope: default\n")
    monkeypatch.setattr(methods, "PRESETS", tmp_path)
    with pytest.raises(ValueError, match="says nothing of Settings, Reported, Differs"):
        methods.methods()
