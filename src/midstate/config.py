"""Configuration: its schema, and building objects from it.

Imports nothing heavy: `train.py --cfg job` and a refused override must answer at once.
"""

import difflib
import inspect
import math
import os
import pkgutil
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import Any, TextIO

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError

# Packages whose classes a configuration may name; no configuration can say so itself.
TRUSTED = ("midstate", *filter(None, os.environ.get("MIDSTATE_TRUST", "").split(",")))

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
# What tensors and generators take.
_LIMITS = {bool: 1, int: 2**63 - 1, float: 3.4e38}


class ConfigError(Exception):
    """The user's configuration cannot run; nothing has been written."""


class RunFailed(Exception):
    """Training could not go on."""


class RunStopped(Exception):
    """A run was stopped on request; it goes on by the same command."""


@dataclass
class Machine:
    """What differs between machines and changes no result."""

    device_index: int = 0
    workers: int | None = None
    prefetch: int = 2


@dataclass
class Root:
    """The root of every configuration; the groups bring their own keys."""

    model: Any = MISSING
    data: Any = MISSING
    schedule: Any = MISSING
    pruner: Any = MISSING
    optimizer: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    machine: Machine = field(default_factory=Machine)
    seed: int = 0
    run_dir: str | None = None
    rerun: bool = False


# Chosen with group=member; experiment and debug are saved choices.
GROUPS = ("model", "data", "schedule", "pruner", "optimizer", "trainer", "logger", "launcher", "experiment", "debug")
GROUPS += ("claim", "sweep")

ConfigStore.instance().store(name="schema", node=Root)


def check_root(config: DictConfig, typed: list[str]) -> None:
    """Refuse what no group or schema knows: unknown root keys, pruner settings that no axis reads.

    `+key=value` on the command line passes Hydra's own checks, hence these. What a preset set for an axis
    that was then replaced goes with that axis: it is removed.

    Args:
        config: the composed root; settings nobody reads are removed in place.
        typed: the user's overrides.
    """
    known = [f.name for f in fields(Root)]
    for key in config:
        if key not in known:
            raise ConfigError(f"{key}: unknown key{near(key, known)}; known: {', '.join(known)}")
    for name, value in flatten(OmegaConf.to_container(config, resolve=False)):
        try:
            number = OmegaConf.select(config, name)
            if isinstance(number, int | float) and math.isfinite(number) and abs(number) > _LIMITS[type(number)]:
                raise ConfigError(f"{name}={value}: must be at most {_LIMITS[type(number)]:.3g}, as computed with")
        except InterpolationResolutionError as error:
            raise ConfigError(f"{name}={value}: {first_line(error)}") from error
    for key in known:
        if key not in config or OmegaConf.is_missing(config, key):
            raise ConfigError(f"{key}: is missing; it may be set, and not be removed")
    raw = OmegaConf.to_container(config.pruner, resolve=False)
    axes = str([node for node in raw.values() if isinstance(node, dict)])
    scalars = [key for key, node in raw.items() if not isinstance(node, dict)]
    for key in scalars:
        if f"${{pruner.{key}}}" in axes:
            continue
        if any(override.lstrip("+~").startswith(f"pruner.{key}=") for override in typed):
            used = [name for name in scalars if name != key]
            raise ConfigError(
                f"pruner.{key}={raw[key]}: no axis of this pruner reads it{near(key, used)}; "
                f"known: {', '.join(used) or 'none'}"
            )
        with open_dict(config.pruner):
            del config.pruner[key]
    if config.seed < 0:
        raise ConfigError(f"seed={config.seed}: must be 0 or more")


def build(config: DictConfig, key: str) -> Any:
    """Instantiate one node of the configuration, with every object below it.

    Raises:
        ConfigError: a number that is not finite, or whatever a constructor refuses.
    """
    node = OmegaConf.to_container(config[key], resolve=True)
    _check_targets(key, node)  # and what was checked is what is built, not what another resolving would give
    for name, value in flatten({key: node}):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value}: must be a finite number")
    try:
        return hydra.utils.instantiate({key: node}, _convert_="all")[key]
    except InstantiationException as error:
        cause = error.__cause__
        # Only these two come from what the user typed; anything else is a defect and keeps its traceback.
        if cause is None:  # a target that Hydra itself refuses
            raise ConfigError(str(error)) from error
        if isinstance(cause, ValueError | TypeError):
            where = re.search(r"full_key: (\S+)", str(error))
            raise ConfigError(named(where[1] if where else key, cause, config)) from error
        raise


def _check_targets(name: str, node: Any) -> None:
    """Refuse to build what is not this package's own: a configuration is no program.

    What counts is the module where an object is defined, whatever name it is reached by. All are checked before any
    is called, in lists, too.

    Raises:
        ConfigError: a target elsewhere, one of Hydra's own keys that change what a target does, or a reference that
            is still to be resolved.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                _check_target(f"{name}._target_", value)
            elif str(key).startswith("_"):
                raise ConfigError(f"{name}.{key}: only _target_ may stand in a configuration")
            _check_targets(f"{name}.{key}", value)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            _check_targets(f"{name}[{i}]", value)
    elif isinstance(node, str) and "${" in node:  # it was escaped, and Hydra would resolve it once more
        raise ConfigError(f"{name}={node}: a value must not hold ${{")


def _check_target(name: str, target: Any) -> None:
    home = None
    # Only names of ours are looked up: looking up another would already run what it imports.
    if isinstance(target, str) and re.fullmatch(r"\w+(\.\w+)+", target) and target.split(".")[0] in TRUSTED:
        with suppress(Exception):  # whatever a name that leads nowhere raises
            found = pkgutil.resolve_name(target)
            home = found.__module__ if inspect.isclass(found) else None
    if home is None or home.split(".")[0] not in TRUSTED:
        raise ConfigError(
            f"{name}={target}: must be a class of {' or '.join(TRUSTED)}; packages of your own are trusted by the "
            "environment variable MIDSTATE_TRUST=package,package"
        )


def named(where: str, error: Exception, config: DictConfig) -> str:
    """Put a refused field the way the user types it: `pruner.n=17: must be ...`, whichever node refused it."""
    message = re.sub(r"^\w+(\.\w+)*\.__init__\(\) ", "", str(error))  # Python's own wording of a call
    field_name = re.match(r"(\w+)=", message)
    group = where.split(".")[0]
    if field_name and OmegaConf.select(config, f"{group}.{field_name[1]}") is not None:
        return f"{group}.{message}"
    return f"{where}: {message}"


def redact(value: Any) -> Any:
    """Replace every value of a secret environment variable in a configuration, or a message."""
    if isinstance(value, dict):
        return {redact(key): redact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    if isinstance(value, str):
        for text, name in _secrets():
            value = value.replace(text, f"<{name}>")
    return value


def say(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print for people, secrets replaced; where nobody can be told, the work goes on all the same."""
    with suppress(OSError):
        print(redact(text), end=end, file=file, flush=True)


def _secrets() -> list[tuple[str, str]]:
    """Secret values of the environment with their names, the longest first; also as Python quotes them, and by line."""
    named = [(name, value) for name, value in os.environ.items() if _SECRET.search(name)]
    texts = {
        (text, name)
        for name, value in named
        for text in (value, repr(value)[1:-1], *value.splitlines())
        if len(text) >= 8
    }
    return sorted(texts, key=lambda pair: -len(pair[0]))


@contextmanager
def user_errors(where: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a part refuses into a ConfigError that says which part."""
    try:
        yield
    except kinds or (ValueError,) as error:  # noqa: B030
        raise ConfigError(f"{where}: {error}") from error


def first_line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def near(typed: str, known: list[str], cutoff: float = 0.6) -> str:
    """Suggest the known names nearest to a typed one; nothing where none is near."""
    found = difflib.get_close_matches(typed, known, n=2, cutoff=cutoff)
    return f"; did you mean {' or '.join(found)}?" if found else ""
