"""Build a method and a schedule from a preset's name and keyword settings."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midstate.common.checks import near, one_of
from midstate.common.errors import ConfigError, first_line
from midstate.common.project import CONF, member_folders
from midstate.config import build
from midstate.config.compose import compose_aside
from midstate.config.schema import check_root
from midstate.sparsity import Method, Schedule
from midstate.sparsity.idle import idle

log = logging.getLogger(__name__)
AXES = tuple(field.name for field in fields(Method))


@dataclass(frozen=True)
class Choice:
    """The method and schedule chosen for a loop."""

    name: str  # of the preset; `method` if a `Method` was given
    method: Method
    schedule: Schedule
    begins_trained: bool = False  # whether the preset is made for trained weights


def choose(
    method: str | Method,
    settings: Mapping[str, Any],
    schedule: str | Schedule | None,
    start: float | str | None,
    stop: float | str | None,
) -> Choice:
    """Find a preset, or take a method as it is.

    Args:
        method: name of a preset in conf/pruner or local/conf/pruner; or a `Method`.
        settings: settings of the preset: its scalars; or axes, by member name or as objects.
        schedule: name of a member of conf/schedule, or an object; None: the preset's own, else cubic.
        start: start of the schedule, instead of its own: a share of the run (0..1), epochs ('10ep') or steps ('500it').
        stop: stop of the schedule, likewise.

    Raises:
        ValueError: a name or setting does not exist, or a member refuses its settings.
    """
    if not isinstance(schedule, str | Schedule | None):
        raise ValueError(f"schedule={schedule!r}: must be one of {_members('schedule')}, a Schedule or None")
    if isinstance(method, Method) and settings:
        raise ValueError(f"{', '.join(settings)}: settings belong to a preset; a Method has its own")
    if isinstance(schedule, Schedule) and (start is not None or stop is not None):
        raise ValueError("start, stop: belong to a schedule that is given by its name; a Schedule has its own")
    if isinstance(method, Method) and isinstance(schedule, Schedule):
        return Choice("method", method, schedule)
    name = "nm_block" if isinstance(method, Method) else one_of("method", method, _members("pruner"))
    try:
        config = _composed(name, settings, schedule, start, stop)
        planned = schedule if isinstance(schedule, Schedule) else build(config, "schedule")
        if isinstance(method, Method):
            return Choice("method", method, planned)
        made = _method(name, config, settings)
        _warn_without_effect(made, planned, [*settings, *_given(schedule=schedule, stop=stop)])
        return Choice(name, made, planned, config.trainer.mode == "finetune")
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(in_python(first_line(error))) from error
    except (ConfigError, ValueError) as error:
        raise ValueError(in_python(str(error))) from error


def _given(**arguments: Any) -> list[str]:
    return [name for name, value in arguments.items() if value is not None]


def _warn_without_effect(method: Method, schedule: Schedule, given: list[str]) -> None:
    """Warn of arguments that change nothing."""
    for applies, typed, why in idle(method, schedule.curve):
        names = [re.split(r"[./]", each.removesuffix("="))[-1] for each in typed]
        for name in given if applies else ():
            if name in names:
                log.warning(f"warning: {name} has no effect: {in_python(why)}")


def in_python(message: str) -> str:
    """Rewrite a message about the command line for Python: `pruner.n=3` becomes `n=3`."""
    message = re.sub(r"\bpruner/(\w+)=(\w+)", r'\1="\2"', message)
    message = re.sub(r"\b(?:pruner|schedule)\.(?=\w)", "", message)
    return re.sub(r"\bschedule=(\w+)", r'schedule="\1"', message)


def _composed(
    name: str,
    settings: Mapping[str, Any],
    schedule: str | Schedule | None,
    start: float | str | None,
    stop: float | str | None,
) -> DictConfig:
    """Compose the configuration with all settings applied."""
    groups = {folder.name for folder in (CONF / "pruner").iterdir() if folder.is_dir()}
    words = [f"pruner={name}", "logger=none"]
    if isinstance(schedule, str):
        words.append(f"schedule={one_of('schedule', schedule, _members('schedule'))}")
    for axis, member in settings.items():
        if axis in groups and isinstance(member, str):
            chosen = one_of(axis, member, _members(f"pruner/{axis}"))
            words.append(f"{'' if _brings(name, axis) else '+'}pruner/{axis}={chosen}")
        elif axis in groups and axis not in AXES:
            raise ValueError(f"{axis}={member!r}: must be a name, of {', '.join(_members(f'pruner/{axis}'))}")
    config, choices = compose_aside(words)
    given = {key: value for key, value in settings.items() if key not in groups}
    for key, value in given.items():
        _set(config.pruner, name, key, value)
    for key, value in (("start", start), ("stop", stop)):
        if value is not None:
            config.schedule[key] = value
    check_root(config, [f"pruner.{key}={value}" for key, value in given.items()], choices)
    return config


def _method(name: str, config: DictConfig, settings: Mapping[str, Any]) -> Method:
    """Build the axes; members given as objects replace the built ones."""
    if "narrow" in config.pruner:
        raise ValueError(f"method={name!r}: makes a narrower network, and yours is there already; train.py has it")
    axes = build(config, "pruner")
    objects = {axis: member for axis, member in settings.items() if axis in AXES and not isinstance(member, str)}
    return Method(**{axis: axes.get(axis) for axis in AXES} | objects)


def _set(pruner: DictConfig, name: str, key: str, value: Any) -> None:
    known = [each for each, node in OmegaConf.to_container(pruner, resolve=False).items() if not isinstance(node, dict)]
    if key not in known:
        raise ValueError(
            f"{key}={value!r}: {name} has no such setting{near(key, known)}; it has {', '.join(known) or 'none'}, and "
            "the axes by their names"
        )
    try:
        pruner[key] = list(value) if isinstance(value, tuple) else value
    except OmegaConfBaseException as error:
        raise ValueError(
            f"{key}={value!r}: must be a number, a text, true or false, None or a list of these"
        ) from error


def _brings(name: str, axis: str) -> bool:
    """Tell whether a preset's file chooses a member of an axis, which can then be replaced and need not be added."""
    files = (folder / "pruner" / f"{name}.yaml" for folder in member_folders())
    file = next(file for file in files if file.is_file())
    return any(axis in entry for entry in OmegaConf.load(file).get("defaults", []))


def _members(group: str) -> list[str]:
    return sorted({file.stem for folder in member_folders() for file in (folder / group).glob("*.yaml")})
