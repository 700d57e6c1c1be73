"""What README.md and the documents show is what is there."""

import json
import re
from collections import OrderedDict

import pytest
from conftest import ROOT, TINY, Tree

from benchmarks.common import rendered
from benchmarks.quoted import RECORDS, quoted

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"<!-- bench:(\w+) -->\n(?!not measured yet)")
TABLES = [(page, name) for page in PAGES for name in MARKED.findall(page.read_text())]
CODE = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", README, re.DOTALL | re.MULTILINE))
OWN_LOOP = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own_loop.md").read_text(), re.DOTALL)
PLAIN_LOOPS = [code for code in OWN_LOOP if "in loader" in code]


def test_it_is_read_in_some_minutes():
    assert len(README.encode()) <= 12_500
    assert "pruner=nm_block schedule=cubic" in README


@pytest.mark.parametrize(("page", "benchmark"), TABLES, ids=[name for _, name in TABLES])
def test_benchmark_tables_are_those_on_record(page, benchmark):
    """`python scripts/bench.py NAME --json results/bench/NAME.json --docs` writes both."""
    record = json.loads((RECORDS / f"{benchmark}.json").read_text())
    assert f"<!-- bench:{benchmark} -->\n{rendered(benchmark, record)}\n<!-- end -->" in page.read_text()


def test_every_record_is_shown():
    assert {name for _, name in TABLES} == {path.stem for path in RECORDS.glob("*.json")}


def test_quoted_figures_are_those_on_record():
    assert f"<!-- speed -->\n{quoted(RECORDS)}\n<!-- end -->" in README


def test_members_in_the_tables_are_those_under_conf():
    listed = {
        group: set(re.findall(r"`(\w+)`", members))
        for group, members in re.findall(r"^\| `([\w/]+)` \| (`.*?) \|", README, re.MULTILINE)
    }
    assert {"pruner", "pruner/criterion", "schedule", "model", "data"} < set(listed)
    for group, members in listed.items():
        assert members == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}, group


def test_what_the_map_names_is_there():
    rooms = README.partition("## Map")[2].partition("## Speed")[0]
    for name in re.findall(r"`([\w./]+(?:/|\.py|\.yaml))`", rooms):
        places = (ROOT / name, ROOT / "src" / "midstate" / name, ROOT / "scripts" / name)
        assert any(place.exists() for place in places), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.slow
def test_the_criterion_of_ones_own_runs(tmp_path):
    settings = re.search(r"## Your own criterion.*?```yaml\n(.*?)```", README, re.DOTALL)[1]
    tree = Tree(tmp_path)
    tree.write({"my.py": CODE["Your own criterion"], "conf/pruner/criterion/mine.yaml": settings})
    done = tree.python(
        "train.py", "pruner/criterion=mine", "pruner.every=100it", *TINY, "trainer.probes=false", "run_dir=run"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["pattern_verified"] is True


@pytest.mark.parametrize("code", [CODE["Your own loop"], *PLAIN_LOOPS], ids=["README", "docs", "by hand"])
def test_the_loop_of_ones_own_prunes(code):
    import torch
    from torch.nn.functional import cross_entropy

    torch.manual_seed(0)
    nn = torch.nn
    layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 6), nn.Flatten(), nn.Linear(32, 4)
    names = "conv1", "relu", "conv2", "flat", "fc"
    scope = {
        "torch": torch,
        "cross_entropy": cross_entropy,
        "model": nn.Sequential(OrderedDict(zip(names, layers, strict=True))),
        "loader": [(torch.randn(8, 1, 8, 8), torch.arange(8) % 4) for _ in range(4)],
        "epochs": 2,
    }
    exec(code, scope)
    assert (scope["model"][2].weight != 0).sum() == 32 * 16 * 36 / 2


def test_the_functions_of_the_library_work_as_shown():
    code = re.search(r"```python\n(import torch.*?)```", (ROOT / "docs" / "methods.md").read_text(), re.DOTALL)[1]
    scope = {}
    exec(code, scope)
    assert 0.6 < scope["mask"].float().mean() < 0.7  # 1 - 0.37 * 15 / 16
