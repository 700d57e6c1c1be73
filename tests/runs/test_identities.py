"""Config hashes on record: where a preset or an experiment becomes another run, its results are no longer its own.

`PYTHONPATH=tests python tests/runs/test_identities.py` writes tests/identities.json anew; a change that was not
meant is a defect. The experiments' are compared in tests/study/test_planning.py, which plans them all.
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
PRESETS = sorted(path.stem for path in (CONF / "pruner").glob("*.yaml"))


def planned(preset):
    return Plan.of(composed(f"pruner={preset}", *GIVEN.get(preset, ()), *PINNED))


def identities():
    """Of every preset, alone, and of every experiment; runs that these begin from are known by their own hash.

    Nothing has to be there: no runs, no images.
    """
    experiments = [path.relative_to(CONF / "experiment") for path in sorted(CONF.glob("experiment/**/*.yaml"))]
    names = [path.with_suffix("").as_posix() for path in experiments if "base" not in path.parts]
    return {
        "presets": {name: planned(name).hash for name in PRESETS},
        "experiments": {name: identity(name, PINNED)[0] for name in names},
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_builds_the_run_on_record(preset):
    plan = planned(preset)
    assert plan.choices["pruner"] == preset
    assert plan.hash == json.loads(ON_RECORD.read_text())["presets"][preset]


def test_every_preset_is_on_record():
    assert sorted(json.loads(ON_RECORD.read_text())["presets"]) == PRESETS


if __name__ == "__main__":
    ON_RECORD.write_text(json.dumps(identities(), indent=1) + "\n")
