"""Refuses wrong values before torch and data are loaded: of one run, or of all jobs of a sweep before the first begins.

Checks and messages are those of the classes; errors that only torch, a network or data can show are raised later.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import chain
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from midstate.common import limits, training_limits
from midstate.common.errors import ConfigError
from midstate.common.secrets import redact
from midstate.common.times import steps_of
from midstate.config.building import named
from midstate.config.schema import check_root

LIMITS: dict[str, Callable[[limits.Fields], None]] = {
    "midstate.engine.Trainer": training_limits.trainer,
    "midstate.optimizers.SGD": training_limits.sgd,
    "midstate.optimizers.AdamW": training_limits.adamw,
    **{
        f"midstate.sparsity.{name}": check
        for check, names in (
            (limits.schedule, "Schedule"),
            (limits.nm, "NM"),
            (limits.share, "Weight Row Filter"),
            (limits.channel, "Channel"),
            (limits.update, "Update"),
            (limits.drop_grow, "DropGrow"),
            (limits.counted, "ERK UniformPlus RandomShares Reversed Collapsed Domino"),
            (limits.ranked, "LAMP"),
            (limits.global_, "Global"),
            (limits.budget, "Budget"),
            (limits.tried, "HAQ RandomSearch"),
            (limits.blocks, "Blocks"),
            (limits.density, "Density"),
            (limits.step_n, "StepN"),
        )
        for name in names.split()
    },
}


def check_values(config: DictConfig) -> None:
    """Refuse a configuration, as Hydra has composed it, for errors that can be found in it alone.

    Raises:
        ConfigError: names the setting, its value and what is allowed.
    """
    typed = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    choices = dict(config.hydra.runtime.choices)
    config = deepcopy(config)
    with open_dict(config):
        del config["hydra"]
    check_root(config, typed, choices)
    tree = OmegaConf.to_container(config, resolve=True)
    if not all(isinstance(tree[group], dict) for group in ("schedule", "trainer")):
        return  # nothing can be built from it
    for where, node in _built(tree):
        if check := LIMITS.get(node["_target_"]):
            with suppress(KeyError):  # a field that the configuration leaves out: the class knows its default
                _named(check, {**node, "group": where.partition(".")[0]}, where, config)
    schedule, epochs = tree["schedule"], tree["trainer"].get("epochs")
    if schedule.get("_target_") == "midstate.sparsity.Schedule" and isinstance(epochs, int):
        with suppress(KeyError):
            _named(lambda fields: _check_window(fields, epochs), schedule, "schedule", config)


def check_jobs(config: DictConfig) -> None:
    """Refuse a sweep, as Hydra has composed it, for a wrong value in any of its jobs.

    Jobs that differ only in their seeds are checked once. A search has no jobs yet, so nothing is checked.

    Raises:
        ConfigError: as `check_values`, and names the job.
    """
    if config.hydra.runtime.choices["hydra/sweeper"] != "basic":
        return
    loader = GlobalHydra.instance().config_loader()
    typed = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(typed)
    seen = set()
    for number, job in enumerate(chain(*BasicSweeper.split_arguments(overrides, None))):
        rest = tuple(word for word in job if not word.startswith("seed="))
        if rest not in seen:
            seen.add(rest)
            try:
                check_values(loader.load_sweep_config(config, list(job)))
            except ConfigError as error:
                raise ConfigError(f"{error}\njob {number} ({redact(' '.join(job))}); no job has begun") from error


def _built(tree: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The dotted key of every node with a `_target_`, and the node."""
    if not isinstance(tree, dict):
        return
    if isinstance(tree.get("_target_"), str):
        yield where, tree
    for key, value in tree.items():
        yield from _built(value, f"{where}.{key}".lstrip("."))


def _named(check: Callable[[limits.Fields], None], node: limits.Fields, where: str, config: DictConfig) -> None:
    try:
        check(node)
    except (ValueError, TypeError) as error:
        raise ConfigError(named(where, error, config)) from error


def _check_window(schedule: limits.Fields, epochs: int) -> None:
    """Refuse a window that ends after the run or before its own start, whatever the number of steps in an epoch."""
    start, stop = (
        None if str(schedule[name]).strip().endswith("it") else steps_of(name, schedule[name], 1, epochs)
        for name in ("start", "stop")
    )
    if schedule["curve"] == "one_shot":
        stop = start
    if stop is not None and stop > epochs:
        raise ValueError(
            f"stop={schedule['stop']!r}: lies after the run's end (trainer.epochs={epochs}); the target would never "
            "be reached"
        )
    if None not in (start, stop) and stop < start:
        raise ValueError(f"stop={schedule['stop']!r}: must not lie before start={schedule['start']!r}")
