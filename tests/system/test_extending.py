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
    # Probes where the path is one's own; they take most of the time.
    probed = [f"trainer.probes={str('layer_by_layer' in command).lower()}" for command in COMMANDS]
    runs = [[*shlex.split(command), *TINY, probes] for command, probes in zip(COMMANDS, probed, strict=True)]
    done = tree.python("-c", RUNS, json.dumps(runs))
    assert done.returncode == 0, done.stderr
    for number, command in enumerate(COMMANDS):
        summary = json.loads((tmp_path / f"run{number}" / "summary.json").read_text())
        assert summary["pattern_verified"] is True, command
        if "layer_by_layer" in command:
            assert summary["states"][-1].endswith("in 100 % of the layers")
        if "tapered" in command:
            assert summary["layers"][0]["target"] > summary["layers"][-1]["target"] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py", "pruner/criterion=movement"),
        ("train.py", "-m", "launcher=slurm_local", "pruner/criterion=movement,l1"),
    ],
    ids=["torchrun", "submitit"],
)
def test_processes_that_others_begin_find_the_members_too(tmp_path, command):
    tree = Tree(tmp_path)
    tree.write(FILES)
    done = tree.python(*command, "pruner=magnitude", "debug=fast", "logger=none", "trainer.device=cpu", *TINY)
    assert done.returncode == 0, done.stderr
    runs = list(tmp_path.glob("outputs/magnitude/*/seed0"))
    configs = [(run / "config.yaml").read_text() for run in runs]
    assert len(configs) == 1 + ("-m" in command[1:])
    assert sum("movement.py: " in config for config in configs) == 1
    assert all(
        (path.parent / "summary.json").exists() for path in tmp_path.glob("outputs/magnitude/*/seed0/config.yaml")
    )


@pytest.mark.slow
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
