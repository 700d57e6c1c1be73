"""The runs that claims plan, read from files alone.

Composing an experiment takes a third of a second, and the larger scales have hundreds. So parents are read from the
experiments' files, and identities are remembered from the last sweep. Only experiments that have runs in outputs/ and
no identity on record are composed.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from midstate.common.files import read_yaml
from midstate.common.project import member_folders
from midstate.study import planning, remembered
from midstate.study.claims import Claim
from midstate.study.planning import OUTPUTS, PlannedRun

UNKNOWN = "?"
Cell = tuple[str, tuple[str, ...]]  # an experiment and the overrides of a cell


def outline(
    claims: Iterable[Claim], scale: str, num_seeds: int | None = None, arms: str | None = None, look_up: bool = True
) -> list[PlannedRun]:
    """The runs of `planning.plan_runs`, parents first, without the claims that each belongs to.

    Args:
        claims: as in `plan_runs`.
        scale: as in `plan_runs`.
        num_seeds: as in `plan_runs`.
        arms: as in `plan_runs`.
        look_up: whether to look up identities, on record or by composing; else every run has an unknown one.
    """
    asked = [
        ((arm, cell), seed) for claim in claims for seed, arm, cell in planning.asked(claim, scale, num_seeds, arms)
    ]
    family = dict.fromkeys(each for cell, _ in asked for each in reversed(list(_ancestry(cell))))
    identities = _identities(family) if look_up else {}
    planned: dict[Path, PlannedRun] = {}
    for cell, seed in asked:
        start = None
        for arm, overrides in reversed(list(_ancestry(cell))):
            identity = identities.get((arm, overrides))
            start = PlannedRun(arm, overrides, seed, identity or unknown(overrides), parent=start)
            planned.setdefault(start.directory, start)
    return list(planned.values())


def unknown(overrides: Iterable[str]) -> str:
    """Placeholder for an identity that was not looked up, different for each cell."""
    return " ".join((UNKNOWN, *overrides))


def _ancestry(cell: Cell) -> Iterable[Cell]:
    """A cell, the parent cell that its runs begin from, the parent of that one, and so on."""
    arm, overrides = cell
    yield cell
    while arm := _parent(arm):
        overrides = planning.inherited(overrides)
        yield arm, overrides


@cache
def _parent(experiment: str) -> str | None:
    """The parent that an experiment's runs begin from, read from its file and its bases; None: no parent."""
    content = _content(experiment)
    for group, setting in (("model", "checkpoint"), ("pruner", "scheme")):
        node = content.get(group)
        if isinstance(node, dict) and setting in node:
            place = Path(str(node[setting]))
            return place.relative_to(OUTPUTS).as_posix() if place.is_relative_to(OUTPUTS) and not place.suffix else None
    bases = [each for each in content.get("defaults", ()) if isinstance(each, str) and each != "_self_"]
    named = [_named(base, experiment) for base in reversed(bases)]
    return next((found for base in named if (found := _parent(base))), None)


def _named(base: str, experiment: str) -> str:
    """The experiment that an entry of `defaults` names: from /experiment/ on, or beside the file itself."""
    return base.removeprefix("/experiment/") if base.startswith("/") else (Path(experiment).parent / base).as_posix()


def _content(experiment: str) -> dict[str, Any]:
    files = [folder / "experiment" / f"{experiment}.yaml" for folder in member_folders()]
    return next((read_yaml(file) for file in files if file.is_file()), None) or {}


def _identities(cells: Iterable[Cell]) -> dict[Cell, str]:
    """Identities on record, and newly composed ones of experiments that have runs."""
    known = remembered.read()
    left = [cell for cell in cells if cell not in known and _has_runs(cell[0])]
    found = {cell: planning.identity(*cell)[0] for cell in tqdm(left, "composing", disable=None, leave=False)}
    remembered.keep(found)
    return known | found


@cache
def _has_runs(experiment: str) -> bool:
    return any((OUTPUTS / experiment).glob("*/seed*/summary.json"))
