"""What README.md shows is what is there."""

import json
import re

import pytest
from conftest import ROOT

from benchmarks.common import rendered

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("benchmark", re.findall(r"<!-- bench:(\w+) -->", README))
def test_benchmark_tables_are_those_on_record(benchmark):
    """`python scripts/bench.py NAME --json results/bench/NAME.json --readme` writes both."""
    record = json.loads((ROOT / "results" / "bench" / f"{benchmark}.json").read_text())
    assert f"<!-- bench:{benchmark} -->\n{rendered(benchmark, record)}\n<!-- end -->" in README


def test_members_in_the_tables_are_those_under_conf():
    for group, members in re.findall(r"^\| `([\w/]+)` \| (`.*?) \|", README, re.MULTILINE):
        listed = set(re.findall(r"`(\w+)`", members))
        assert listed == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}, group


def test_the_example_of_the_library_works():
    import torch

    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    scope = {"weight": torch.randn(8, 32)}
    exec(code, scope)
    assert scope["mask"].float().mean() < 1
