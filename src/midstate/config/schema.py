"""The schema of a configuration's root, and checks of all that no group checks itself."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError

from midstate.common.checks import near
from midstate.common.errors import ConfigError, first_line
from midstate.common.project import CONF, member_folders

# Largest numbers that tensors and generators accept.
_LIMITS = {bool: 1, int: 2**63 - 1, float: 3.4e38}


@dataclass
class Machine:
    """Settings that differ between machines and change no result."""

    device_index: int = 0
    workers: int | None = None
    prefetch: int = 2
    figures: bool = True
    live_figures: bool = True


@dataclass
class Root:
    """The root of every configuration; the groups bring their own keys."""

    model: Any = MISSING
    data: Any = MISSING
    schedule: Any = MISSING
    pruner: Any = MISSING
    quantizer: Any = None
    optimizer: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    machine: Machine = field(default_factory=Machine)
    seed: int = 0
    run_dir: str | None = None
    rerun: bool = False


# Groups, chosen with group=member; experiment and debug are saved choices.
GROUPS = ("model", "data", "schedule", "pruner", "quantizer", "optimizer", "trainer", "logger", "launcher")
GROUPS += ("experiment", "debug", "claim", "sweep")
# The name has a prefix because a program that imports this one shares the store.
ConfigStore.instance().store(name="midstate_schema", node=Root)


def check_root(config: DictConfig, typed: list[str], choices: Mapping[str, str | None] | None = None) -> None:
    """Refuse unknown root keys, settings of pruner or quantizer that no axis reads, and numbers that are too large.

    `+key=value` on the command line passes Hydra's own checks, hence these. A preset's settings for an axis
    that was replaced by another are removed.

    Args:
        config: the composed root; settings that no axis reads are removed in place.
        typed: the user's overrides.
        choices: the chosen member of each group, to name its file in a message.

    Raises:
        ConfigError: names the key, its value and what is allowed.
    """
    known = [f.name for f in fields(Root)]
    _check_packages(config, known, choices or {})
    for key in config:
        if key not in known:
            raise ConfigError(f"{key}: unknown key{near(key, known)}; known: {', '.join(known)}")
    for name, value in flatten(OmegaConf.to_container(config, resolve=False)):
        try:
            number = OmegaConf.select(config, name)
            if isinstance(number, int | float) and (most := _LIMITS[type(number)]) < abs(number) < math.inf:
                raise ConfigError(f"{name}={value}: must be at most {most:.3g} in size; torch takes no larger number")
        except InterpolationResolutionError as error:
            raise ConfigError(f"{name}={value}: {first_line(error)}") from error
    for key in known:
        if key not in config or OmegaConf.is_missing(config, key):
            raise ConfigError(f"{key}: is missing; it can be changed, but not removed")
    for group in ("pruner", "quantizer"):
        if config[group] is not None:
            _check_read(config, group, typed)
    if config.seed < 0:
        raise ConfigError(f"seed={config.seed}: must be 0 or more")


def _check_read(config: DictConfig, group: str, typed: list[str]) -> None:
    """Refuse settings that no axis reads, if they were typed or no member declares them; remove the others."""
    raw = OmegaConf.to_container(config[group], resolve=False)
    axes = str([node for node in raw.values() if isinstance(node, dict)])
    scalars = [key for key, node in raw.items() if not isinstance(node, dict)]
    for key in scalars:
        if f"${{{group}.{key}}}" in axes:
            continue
        if any(override.lstrip("+~").startswith(f"{group}.{key}=") for override in typed):
            used = [name for name in scalars if name != key]
            raise ConfigError(
                f"{group}.{key}={raw[key]}: no axis of this {group} reads it{near(key, used)}; "
                f"known: {', '.join(used) or 'none'}"
            )
        if key not in (known := _declared(group)):  # a typo in a file
            raise ConfigError(f"{group}.{key}={raw[key]}: no axis of any {group} knows it{near(key, sorted(known))}")
        with open_dict(config[group]):
            del config[group][key]


@cache
def _declared(group: str) -> set[str]:
    """The settings that the members of a group and of its axes declare."""
    files = (path for folder in member_folders() for path in (folder / group).rglob("*.yaml"))
    return {key for path in files for key in re.findall(r"^(\w+):", path.read_text(), re.MULTILINE)}


def _check_packages(config: DictConfig, known: list[str], choices: Mapping[str, str | None]) -> None:
    """Refuse members whose settings are in the wrong place because their files lack `# @package`."""
    for key in config:
        if key not in known and choices.get(key):
            raise ConfigError(f"{member_file(key, choices[key])}: needs `# @package _global_` as its very first line")
        node = config[key]
        if choices.get(key) and isinstance(node, DictConfig) and "_target_" not in node and key in node:
            raise ConfigError(f"{member_file(key, choices[key])}: its settings stand below `{key}:`, and go without it")
    pruner = config.pruner if isinstance(config.get("pruner"), DictConfig) else {}
    for axis, node in pruner.items():
        if not isinstance(node, DictConfig) or "_target_" in node or not choices.get(f"pruner/{axis}"):
            continue
        roots = bool(node) and set(node) <= set(known)
        rest = "" if roots or axis in node else f" and a node `{axis}:` with a `_target_` of that kind"
        package, file = "_global_" if roots else "pruner", member_file(f"pruner/{axis}", choices[f"pruner/{axis}"])
        raise ConfigError(f"{file}: builds no {axis}; it needs `# @package {package}` as its very first line{rest}")


def member_file(group: str, member: str) -> str:
    """The file of a member, as a user names it."""
    name = Path(group, f"{member}.yaml")
    folders = [folder for folder in member_folders() if (folder / name).is_file()]
    return f"{'local/conf' if folders and folders[0] != CONF else 'conf'}/{name.as_posix()}"


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
