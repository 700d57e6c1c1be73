"""docs/extending.md: every example runs as it stands there, and the table of `LayerView` is whole."""

import json
import re
import shlex

import pytest
from conftest import ROOT, TINY, Tree

from midstate.sparsity import LayerView

DOCS = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^\d\. `local/(\S+)`[^\n]*:\n\n```(?:python|yaml)\n(.*?)```", DOCS, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^python train\.py (?!-m)(.* debug=fast)$", DOCS, re.MULTILINE)
RUNS = """
import json, sys
from midstate.config.compose import composed
from midstate.runs.run import run
for number, overrides in enumerate(json.loads(sys.argv.pop())):
    run(composed(*overrides, f"run_dir=run{number}"))
"""


@pytest.mark.slow
def test_the_examples_run_as_they_stand(tmp_path):
    assert (len(FILES), len(COMMANDS)) == (10, 5)
    tree = Tree(tmp_path)
    tree.write(FILES)
    done = tree.python("-c", RUNS, json.dumps([[*shlex.split(command), *TINY] for command in COMMANDS]))
    assert done.returncode == 0, done.stderr
    for number, command in enumerate(COMMANDS):
        summary = json.loads((tmp_path / f"run{number}" / "summary.json").read_text())
        assert summary["pattern_verified"] is True, command
        if "layer_by_layer" in command:
            assert summary["states"][-1].endswith("in 100 % of the layers")
        if "tapered" in command:
            assert summary["layers"][0]["target"] > summary["layers"][-1]["target"] + 0.1


def test_a_wrong_setting_is_refused_as_the_page_says(tmp_path):
    tree = Tree(tmp_path)
    tree.write(FILES)
    (said,) = tree.plans("pruner=magnitude pruner/allocation=tapered pruner.slope=2")
    message = re.search(r"answers `configuration error: (.*?)`", DOCS)[1]
    assert said == f"True {message}"


def test_the_table_has_every_field_of_a_layer():
    table = set(re.findall(r"^\| `layer\.(\w+)", DOCS, re.MULTILINE))
    # By the pruner, to build it.
    given = {"parameter", "in_force", "score_of", "loss_of", "cost_of", "error_of", "measure", "generators"}
    fields = {*LayerView.__dataclass_fields__} - given
    assert table == fields | {name for name in vars(LayerView) if not name.startswith("_")} - given
