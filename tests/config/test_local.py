"""Members of a user's own, in local/ beside a copy of `train.py`: found, trusted, part of a run's identity, refused."""

import json

import pytest
import yaml
from conftest import TINY, Tree, composed

from midstate.runs.plan import Plan

MEMBERS = {
    "my.py": """
import helper
from midstate.sparsity import Allocation, Criterion, Density, Schedule, STE, Window, fit

class Mine(Criterion):
    def score(self, layer, pattern):
        return pattern.pool(layer.weight.abs() * helper.FACTOR)

class Tapered(Allocation):
    def allocate(self, pattern, layers):
        return fit([1 / (i + 1) for i in range(len(layers))], [0.0] * len(layers), pattern, layers, "params")

class Halfway(Density):
    def masks(self, pattern, layers, p):
        return super().masks(pattern, layers, p if p == 1 else p / 2)

class Plain(STE):
    pass

class Late(Window):
    def progress(self, step):
        return super().progress(step) ** 2

class Slow(Schedule):
    def window(self, steps_per_epoch, total_steps):
        window = super().window(steps_per_epoch, total_steps)
        return Late("linear", window.start, window.stop)
""",
    "helper.py": "FACTOR = 2\n",
    "conf/schedule/mine.yaml": "_target_: my.Slow\ncurve: linear\nstart: 0\nstop: 0.75\n",
    "conf/experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /pruner/criterion: mine\n",
} | {
    f"conf/pruner/{axis}/mine.yaml": f"# @package pruner\n{axis}:\n  _target_: my.{name}\n"
    for axis, name in {"criterion": "Mine", "allocation": "Tapered", "path": "Halfway", "estimator": "Plain"}.items()
}
OWN = ("pruner=magnitude", *(f"pruner/{axis}=mine" for axis in ("allocation", "path", "estimator")), "schedule=mine")


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.mark.slow
def test_members_of_ones_own_run_in_a_pool_as_shipped_ones_do(tree):
    tree.write(MEMBERS)
    short = (*TINY, "trainer.probes=false")
    done = tree.python("train.py", "-m", "launcher=pool", *OWN, "pruner/criterion=mine,l1", *short)
    assert done.returncode == 0, done.stderr
    runs = {}
    for path in tree.root.glob("outputs/magnitude/*/seed0/summary.json"):
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        runs[config["pruner"]["criterion"]["_target_"]] = json.loads(path.read_text())
        assert set(config["local"]) == {"my.py", "helper.py"}
    assert set(runs) == {"my.Mine", "midstate.sparsity.L1"}
    for summary in runs.values():
        assert summary["pattern_verified"] is True
        assert summary["layers"][0]["target"] > summary["layers"][-1]["target"]
    assert runs["my.Mine"]["loss"] == runs["midstate.sparsity.L1"]["loss"]  # twice |w| ranks as |w|


@pytest.mark.slow
def test_an_edited_formula_is_another_run_and_no_shipped_one_changes(tree):
    shipped, mine = "pruner=magnitude", "experiment=mine pruner=magnitude"
    tree.write(MEMBERS)
    before = tree.plans(shipped, mine, "pruner=magnitude pruner/allocation=mine")
    assert len(set(before)) == 3
    assert before[0] == Plan.of(composed(shipped)).hash
    tree.write({"helper.py": "FACTOR = 3\n", "other.py": "# read by nobody\n"})
    edited = tree.plans(shipped, mine)
    assert edited[0] == before[0]
    assert edited[1] != before[1]


def own(target):
    return f"# @package pruner\ncriterion:\n  _target_: {target}\n"


BASE = "from midstate.sparsity import Criterion\nclass Mine(Criterion):\n"
REFUSED = {  # by member: its target or its YAML, its module, and what is said
    "unknown": (
        "gone.Mine",
        "import nothing_here\n",
        "local/gone.py, line 1: cannot be imported (ModuleNotFoundError: ",
    ),
    "syntax": ("wrong.Mine", "\ndef f(:\n", "local/wrong.py, line 2: cannot be imported (SyntaxError: invalid syntax)"),
    "leaves": (
        "leaves.Mine",
        "import sys\nsys.exit(3)\n",
        "local/leaves.py, line 2: cannot be imported (SystemExit: 3)",
    ),
    "typo": ("typo.Mien", BASE + "    pass\n", "local/typo.py has no Mien; did you mean Mine?"),
    "elsewhere": ("borrowed.yaml.Mien", "import yaml\n", ": borrowed.yaml has no Mien"),
    "number": ("number.FACTOR.Mine", "FACTOR = 2\n", ": number.FACTOR has no Mine"),
    "nowhere": ("nowhere.Mine", None, "must be a class of midstate, or of a file in local/"),
    "hidden": ("json.Mine", BASE + "    pass\n", "json/__init__.py has the same name and comes first"),
    "foreign": ("other.Path", "from pathlib import Path\n", "must be a class of midstate, or of a file in local/"),
    "function": ("func.make", "def make(): ...\n", "must be a class of midstate, or of a file in local/"),
    "lacking": ("lacking.Mine", BASE + "    pass\n", "lacking.Mine has no `score`, which every criterion has"),
    "picky": (
        "picky.Mine",
        BASE + "    score = None\n    def __init__(self):\n        raise ValueError('power=3: must be 1 or 2')\n",
        "pruner.criterion: power=3: must be 1 or 2",
    ),
    "unpacked": ("criterion:\n  _target_: typo.Mine\n", None, "needs `# @package pruner` as its very first line"),
    "tab": ("criterion:\n\t_target_: typo.Mine\n", None, "tab.yaml, line 2: cannot be read as YAML (found character"),
}


@pytest.mark.slow
def test_what_cannot_work_is_refused_in_a_line_that_names_the_file(tree):
    for name, (target, module, _) in REFUSED.items():
        tree.write({f"conf/pruner/criterion/{name}.yaml": target if ":" in target else own(target)})
        if module:
            tree.write({f"{target.split('.')[0]}.py": module})
    said = tree.plans(*(f"pruner/criterion={name}" for name in REFUSED))
    for (name, (_, _, message)), line in zip(REFUSED.items(), said, strict=True):
        assert line.startswith("True "), (name, line)
        assert message in line, name
    done = tree.python("train.py", "pruner/criterion=unknown")
    assert done.returncode == 2
    assert (
        "local/gone.py, line 1: cannot be imported (ModuleNotFoundError: No module named 'nothing_here')" in done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tree.root / "outputs").exists()


FIRST = "as its very first line"
PACKAGES = {
    "pruner/criterion": (
        "criterion:\n  _target_: midstate.sparsity.L1\n",
        f"builds no criterion; it needs `# @package pruner` {FIRST}",
    ),
    "pruner/allocation": (
        "share: 1\nallocation:\n  _target_: my.Mine\n  share: ${pruner.share}\n",
        f"builds no allocation; it needs `# @package pruner` {FIRST}",
    ),
    "pruner/window": ("schedule:\n  stop: 0.3\n", f"builds no window; it needs `# @package _global_` {FIRST}"),
    "experiment": ("trainer:\n  epochs: 3\n", f"needs `# @package _global_` {FIRST}"),
    "debug": ("defaults:\n  - override /pruner: nm\n", f"needs `# @package _global_` {FIRST}"),
    "model": ("model:\n  _target_: my.Mine\n", "its settings stand below `model:`, and go without it"),
}


@pytest.mark.slow
def test_a_member_in_the_wrong_place_is_named(tree):
    for group, (content, _) in PACKAGES.items():
        tree.write({f"conf/{group}/misplaced.yaml": content})
    said = tree.plans(*(f"{'+' * (group == 'pruner/window')}{group}=misplaced" for group in PACKAGES))
    for (group, (_, message)), line in zip(PACKAGES.items(), said, strict=True):
        assert line.startswith(f"True local/conf/{group}/misplaced.yaml: "), line
        assert message in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"x: 1\n", "conf/pruner/criterion/l1.yaml comes first and would hide it"), (b"\xff", "cannot be read as UTF-8")],
)
def test_a_hidden_or_unreadable_member_is_refused_before_any_run(tree, content, message):
    name = "l1" if content == b"x: 1\n" else "mine"
    tree.write({f"conf/pruner/criterion/{name}.yaml": content})
    (said,) = tree.plans("pruner=nm")
    assert said.startswith(f"True local/conf/pruner/criterion/{name}.yaml: ")
    assert message in said


@pytest.mark.slow
def test_packages_elsewhere_are_trusted_by_the_environment_alone(tree):
    (tree.root / "mine").mkdir()
    (tree.root / "mine" / "elsewhere.py").write_text(BASE + "    def score(self): ...\n")
    command = "pruner=nm pruner.criterion._target_=elsewhere.Mine"
    assert "trusted by the environment variable MIDSTATE_TRUST" in tree.plans(command)[0]
    assert len(tree.plans(command, MIDSTATE_TRUST="elsewhere")[0]) == 12
