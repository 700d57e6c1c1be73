"""Config hashes on record: where a preset or an experiment becomes another run, its results are no longer its own.

`PYTHONPATH=tests python tests/runs/test_identities.py` writes tests/identities.json anew; a change that was not
meant is a defect.
"""

import json

import pytest
from conftest import ALONE, ROOT, composed

from midstate.runs.plan import Plan
from midstate.study.planning import identity

CONF = ROOT / "conf"
ON_RECORD = ROOT / "tests" / "identities.json"
PINNED = ("trainer.device=cpu", "trainer.threads=1")  # their `auto` depends on the machine; precision says none
GIVEN = {**ALONE, "dense_small": ("pruner.density=0.5",)}


def identities():
    """Of every preset, alone, and of every experiment; runs that these begin from are known by their own hash.

    Nothing has to be there: no runs, no images.
    """
    presets = sorted(path.stem for path in (CONF / "pruner").glob("*.yaml"))
    experiments = [path.relative_to(CONF / "experiment") for path in sorted(CONF.glob("experiment/**/*.yaml"))]
    names = [path.with_suffix("").as_posix() for path in experiments if path.parts[0] != "base"]
    return {
        "presets": {name: Plan.of(composed(f"pruner={name}", *GIVEN.get(name, ()), *PINNED)).hash for name in presets},
        "experiments": {name: identity(name, PINNED)[0] for name in names},
    }


@pytest.mark.parametrize("kind", ["presets", "experiments"])
def test_identities_are_those_on_record(found, kind):
    on_record = json.loads(ON_RECORD.read_text())[kind]
    different = {name: (on_record.get(name), found[kind].get(name)) for name in {*on_record, *found[kind]}}
    assert {name: pair for name, pair in different.items() if len(set(pair)) > 1} == {}


@pytest.fixture(scope="module")
def found():
    return identities()


if __name__ == "__main__":
    ON_RECORD.write_text(json.dumps(identities(), indent=1) + "\n")
