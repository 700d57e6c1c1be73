"""constraints.txt has a version for everything that pyproject.toml names, and one that it allows."""

import tomllib

from conftest import ROOT
from packaging.requirements import Requirement

LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = {each.name: each.specifier for each in map(Requirement, LINES)}


def named():
    """Every dependency and everything that an extra brings, but the package itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = (project["dependencies"], *project["optional-dependencies"].values())
    wanted = [Requirement(each) for listed in lists for each in listed]
    return [each for each in wanted if each.name != project["name"]]


def test_each_dependency_has_exactly_one_version_which_is_allowed():
    assert len(PINNED) == len(LINES)
    for wanted in named():
        (version,) = PINNED[wanted.name]
        assert version.operator == "==", wanted.name
        assert version.version in wanted.specifier, wanted


def test_nothing_is_kept_that_is_no_longer_wanted():
    assert set(PINNED) == {each.name for each in named()}
