"""The table of methods."""

import subprocess
import sys

import pytest
from conftest import ROOT

from midstate import methods


def test_the_table_in_the_readme_is_the_one_printed():
    done = subprocess.run([sys.executable, "-m", "midstate.methods"], capture_output=True, text=True, check=True)
    assert f"<!-- methods -->\n{done.stdout}<!-- end -->" in (ROOT / "README.md").read_text()


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
