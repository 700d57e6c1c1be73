"""Which runs a set of claims needs, where each belongs, and which are done."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from midstate.common.errors import ConfigError
from midstate.common.project import member_folders
from midstate.config.compose import compose_root
from midstate.config.schema import check_root
from midstate.runs.files import read_summary
from midstate.runs.identity import config_hash
from midstate.runs.parts import build_parts
from midstate.runs.plan import resolve, runs_with_schemes
from midstate.study.claims import Claim, read_all

log = logging.getLogger(__name__)
LEVELS_AT = "quick"  # the scale at which the arms of `levels` are run
OUTPUTS = Path("outputs")  # where train.py puts runs by itself; plain multiruns and this sweep share them


@dataclass(frozen=True)
class PlannedRun:
    """One run of one experiment."""

    experiment: str
    overrides: tuple[str, ...]  # of the cell
    seed: int
    config_hash: str
    claims: tuple[str, ...] = field(default=(), compare=False)  # such as C10-1a2b3c4d, name and digest
    parent: "PlannedRun | None" = None  # the run that it begins from
    takes: str | None = None  # setting that names the parent's runs, such as model.checkpoint

    @property
    def name(self) -> str:
        """The run in words."""
        return " ".join((self.experiment, *self.overrides, f"seed {self.seed}"))

    @property
    def directory(self) -> Path:
        """Directory of the run."""
        return OUTPUTS / self.experiment / self.config_hash / f"seed{self.seed}"

    @property
    def finished(self) -> bool:
        """Tell whether the run is finished; with a damaged summary it is not."""
        try:
            summary = read_summary(self.directory)
        except ConfigError:
            return False
        return summary is not None and summary["status"] == "finished"

    @property
    def arguments(self) -> list[str]:
        """Arguments of `python train.py`."""
        start = [f"{self.takes}={self.parent.directory.parent}"] if self.parent else []
        arguments = [f"experiment={self.experiment}", *self.overrides, f"seed={self.seed}", *start]
        if "logger=none" in self.overrides or not self.claims:
            return arguments
        return [
            *arguments,
            f"logger.group={self.claims[0].partition('-')[0]}",
            f"logger.tags=[{','.join(self.claims)}]",
        ]


def plan_runs(
    claims: Iterable[Claim], scale: str, num_seeds: int | None = None, arms: str | None = None
) -> list[PlannedRun]:
    """Every run that the claims need at a scale, each once, parents before the runs that begin from them.

    Args:
        claims: in the order in which they are to be run.
        scale: quick, full, paper or pilot.
        num_seeds: instead of each claim's own number.
        arms: pattern of names; these arms alone, at scale quick also those of `levels`; None: all but those.

    Raises:
        ValueError: no arm of the claims has such a name.
        ConfigError: an experiment cannot work.
    """
    claims = list(claims)
    planned: dict[Path, PlannedRun] = {}

    def add(run: PlannedRun) -> None:
        if run.parent:
            add(run.parent)
        planned.setdefault(run.directory, run)

    for claim in claims:
        if scale not in claim.scales:
            log.warning(f"{claim.claim} has no {scale} scale")
        for seed, arm, cell in asked(claim, scale, num_seeds, arms):
            add(_planned(arm, cell, seed))
    if arms and not planned:
        known = [arm for claim in claims for arm in (*claim.all_arms, *claim.level_arms)]
        raise ValueError(f"arms={arms!r}: matches none of {', '.join(dict.fromkeys(known))}, at this scale")
    return list(planned.values())


def asked(claim: Claim, scale: str, num_seeds: int | None, arms: str | None) -> list[tuple[int, str, tuple[str, ...]]]:
    """Seed, arm and cell of every run of a claim; arms of `levels` only where `arms` names them."""
    found = []
    for cell in claim.cells(scale):
        names = [arm for arm in claim.arms_in(cell, scale) if not arms or fnmatchcase(arm, arms)]
        found += [(seed, arm, cell) for seed in claim.seeds(scale, num_seeds) for arm in names]
    if arms and scale == LEVELS_AT:
        levels = {arm: num_seeds or number for arm, number in claim.level_arms.items() if fnmatchcase(arm, arms)}
        most = max(levels.values(), default=0)
        found += [
            (seed, arm, claim.level_cell) for seed in range(most) for arm, number in levels.items() if seed < number
        ]
    return found


def with_parents(todo: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Unfinished runs, each after the unfinished runs that it begins from."""
    found: dict[Path, PlannedRun] = {}

    def add(run: PlannedRun) -> None:
        if run.finished:
            return
        if run.parent:
            add(run.parent)
        found.setdefault(run.directory, run)

    for run in todo:
        add(run)
    return list(found.values())


def _planned(experiment: str, overrides: tuple[str, ...], seed: int) -> PlannedRun:
    config_hash, parent, takes = identity(experiment, overrides)
    start = _planned(parent, inherited(overrides), seed) if parent else None
    return PlannedRun(experiment, overrides, seed, config_hash, _tags().get(experiment, ()), start, takes)


@cache
def _tags() -> dict[str, tuple[str, ...]]:
    """Of every arm, name and digest of the claims, of both editions, that it belongs to."""
    found: dict[str, tuple[str, ...]] = {}
    for claim in read_all():
        for arm in (*claim.all_arms, *claim.level_arms):
            found[arm] = (*found.get(arm, ()), f"{claim.claim}-{claim.digest}")
    return found


def inherited(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides of a cell that the parent run shares: data, network, machine; not the recipe."""
    kinds = ("model", "data", "trainer.batch_size", "trainer.device", "trainer.threads", "trainer.final_images")
    return tuple(each for each in overrides if each.startswith(kinds))


@cache
def identity(experiment: str, overrides: tuple[str, ...]) -> tuple[str, str | None, str | None]:
    """Config hash that `train.py` will give a run, the parent it begins from, and the setting that names the parent.

    Raises:
        ConfigError: the experiment cannot work.
        ValueError: it begins from several runs, or from runs of no experiment.
    """
    config = compose(experiment, overrides)
    scheme = runs_with_schemes(config)
    # The parent may not have found the scheme yet: the rest is checked with a uniform allocation in its place.
    parts = build_parts(_without_scheme(config) if scheme else config)
    places = {"model.checkpoint": parts.model.checkpoint, "pruner.scheme": scheme}
    found = {setting: _experiment(setting, place) for setting, place in places.items() if place}
    if len(found) > 1:
        raise ValueError(f"{experiment}: weights and scheme of other runs at once; the scheme has to be a .json file")
    setting, parent = next(iter(found.items()), (None, None))
    made_by = identity(parent, inherited(overrides))[0] if parent else None
    resolved = resolve(config, parts, made_by if scheme else None)
    if parent and not scheme:
        resolved["model"]["checkpoint_of"] = made_by
    return config_hash(resolved), parent, setting


def _without_scheme(config: DictConfig) -> DictConfig:
    config = config.copy()
    OmegaConf.update(config, "pruner.allocation", {"_target_": "midstate.sparsity.Uniform"}, merge=False)
    return config


def _experiment(setting: str, place: str) -> str:
    """The experiment whose runs lie at `place`, the value of a setting."""
    path = Path(place)
    name = path.relative_to(OUTPUTS).as_posix() if path.is_relative_to(OUTPUTS) else None
    if name is None or not any((folder / "experiment" / f"{name}.yaml").is_file() for folder in member_folders()):
        raise ValueError(f"{setting}={place}: must be {OUTPUTS}/EXPERIMENT here, so that it can be run first")
    return name


def try_data(planned: Iterable[PlannedRun]) -> None:
    """Load the data of the first unfinished run, so that missing files are reported once and before any run.

    Raises:
        ValueError: the files are missing or damaged.
    """
    if run := next((run for run in planned if not run.finished), None):
        try:
            instantiate(compose(run.experiment, run.overrides).data).load()
        except ValueError as error:
            raise ValueError(f"data of {run.experiment}: {error}") from error


def compose(experiment: str, overrides: tuple[str, ...]) -> DictConfig:
    """Compose an experiment's configuration as `train.py` does."""
    config = compose_root([f"experiment={experiment}", *overrides])
    check_root(config, list(overrides))
    return config
