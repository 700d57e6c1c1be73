"""The table of methods, and the examples of docs/methods.md as a reader would try them."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, TINY

from midstate import methods

DOCS = (ROOT / "docs" / "methods.md").read_text()


def test_the_table_in_the_readme_is_the_one_printed():
    done = subprocess.run([sys.executable, "-m", "midstate.methods"], capture_output=True, text=True, check=True)
    assert f"<!-- methods -->\n{done.stdout}<!-- end -->" in (ROOT / "README.md").read_text()


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
    assert "has no marks <!-- methods --> or <!-- refused -->" in capsys.readouterr().err


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


def test_the_worked_examples_run_as_they_stand(tmp_path):
    for name, kind, body in re.findall(r"^`(\S+)`:\n\n```(python|yaml)\n(.*?)```", DOCS, re.DOTALL | re.MULTILINE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
        assert path.suffix == {"python": ".py", "yaml": ".yaml"}[kind]
    own = DOCS.partition("## Adding your own")[2]
    path, trust, *command = shlex.split(re.search(r"```bash\n(.*?)\n```", own, re.DOTALL)[1])
    assert (path, trust) == ("PYTHONPATH=.", "MIDSTATE_TRUST=my_methods")
    assert command[:2] == ["python", "train.py"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *command[2:], *TINY, "run_dir=run", "schedule=linear"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ".", "MIDSTATE_TRUST": "my_methods"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["pattern_verified"] is True
    targets = [layer["target"] for layer in summary["layers"]]
    assert targets == sorted(targets, reverse=True)
    assert targets[0] > targets[-1] + 0.1
    assert "of the layers" in done.stdout
