"""What stands between a command line and a run: schema, building, and errors a user can act on.

Imports nothing heavy: `train.py --help` and a refused override must answer at once.
"""

import difflib
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

EXIT_FINISHED, EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_STOPPED = 0, 2, 3, 75
CONF = Path(__file__).parents[2] / "conf"


class ConfigError(Exception):
    """The user's configuration cannot run; nothing has been written."""


class RunFailed(Exception):
    """Training could not go on."""


@dataclass
class Machine:
    """What differs between machines and changes no result."""

    device_index: int = 0


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


ConfigStore.instance().store(name="schema", node=Root)


def check_root(config: DictConfig) -> None:
    """Refuse what no group or schema knows: unknown root keys, pruner settings that no axis reads.

    `+key=value` on the command line passes Hydra's own checks, hence these.
    """
    known = [f.name for f in fields(Root)]
    for key in config:
        if key not in known:
            raise ConfigError(f"{key}: unknown key{_near(key, known)}; known: {', '.join(known)}")
    raw = OmegaConf.to_container(config.pruner, resolve=False)
    axes = str([node for node in raw.values() if isinstance(node, dict)])
    scalars = [key for key, node in raw.items() if not isinstance(node, dict)]
    for key in scalars:
        if f"${{pruner.{key}}}" not in axes:
            used = [name for name in scalars if name != key]
            raise ConfigError(
                f"pruner.{key}={raw[key]}: no axis of this pruner reads it{_near(key, used)}; "
                f"known: {', '.join(used) or 'none'}"
            )
    if isinstance(config.seed, int) and config.seed < 0:
        raise ConfigError(f"seed={config.seed}: must be 0 or more")


def build(config: DictConfig, key: str) -> Any:
    """Instantiate one node of the configuration, with every object below it.

    Raises:
        ConfigError: a number that is not finite, or whatever a constructor refuses.
    """
    for name, value in flatten({key: OmegaConf.to_container(config[key], resolve=True)}):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value}: must be a finite number")
    try:
        return hydra.utils.instantiate(config[key], _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        # Only these two come from what the user typed; anything else is a defect and keeps its traceback.
        if cause is None:  # a target that Hydra itself refuses
            raise ConfigError(str(error)) from error
        if isinstance(cause, ValueError | TypeError):
            where = re.search(r"full_key: (\S+)", str(error))
            raise ConfigError(named(where[1] if where else key, cause, config)) from error
        raise


def named(where: str, error: Exception, config: DictConfig) -> str:
    """Put a refused field the way the user types it: `pruner.n=17: must be ...`, whichever node refused it."""
    message = re.sub(r"^\w+(\.\w+)*\.__init__\(\) ", "", str(error))  # Python's own wording of a call
    field_name = re.match(r"(\w+)=", message)
    group = where.split(".")[0]
    if field_name and OmegaConf.select(config, f"{group}.{field_name[1]}") is not None:
        return f"{group}.{message}"
    return f"{where}: {message}"


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def command_line(main: Callable[[], None]) -> int:
    """Run a `hydra.main` function; turn bad configurations and failed runs into a message and a status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us instead of Hydra's own printing
    try:
        main()
    except RunFailed as error:
        print(f"run failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        if not _is_users(error):
            raise
        print(f"configuration error: {_explain(error)}", file=sys.stderr)
        return EXIT_BAD_CONFIG
    return EXIT_FINISHED


def _is_users(error: Exception) -> bool:
    """Tell whether an error speaks of the configuration; anything else is a defect and keeps its traceback."""
    if isinstance(error, InstantiationException):
        return False  # `build` has already taken out those that are the user's
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException):
        return True
    # Hydra answers some overrides, such as group=null, with a bare ValueError of its own.
    raised_in = list(traceback.walk_tb(error.__traceback__))[-1][0].f_globals["__name__"]
    return isinstance(error, ValueError) and raised_in.split(".")[0] in ("hydra", "omegaconf")


def _explain(error: Exception) -> str:
    """The error in a few lines, with suggestions for what looks like a typo."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Hydra ends with its search path and the way round its own check; neither helps somebody who mistyped a name.
    noise = re.compile(r"Config search path|\s*provider|To append to your config use")
    message = "\n".join(line for line in lines[:12] if not noise.match(line))
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        message += f"\n{str(error.__cause__).splitlines()[0]}"
    if typed := re.search(r"Could not (?:override|find|load) '([\w./@-]+)'", message):
        message += _suggest(typed[1])
    return message


def _suggest(typed: str) -> str:
    """What a mistyped group, member or key may have been meant to be."""
    members: dict[str, list[str]] = {}
    for path in CONF.glob("*/**/*.yaml"):
        members.setdefault(path.parent.relative_to(CONF).as_posix(), []).append(path.stem)
    group, _, member = typed.rpartition("/")
    if group in members:
        return _near(member, members[group])
    prefix, _, last = typed.rpartition(".")
    owners = [
        path.relative_to(CONF).with_suffix("").as_posix()
        for path in sorted(CONF.glob(f"{prefix or '*'}/*/*.yaml"))
        if re.search(rf"^{re.escape(last)}:", path.read_text(), re.MULTILINE)
    ]
    if prefix and owners:
        return f"; {last} is a setting of {' and '.join('='.join(owner.rsplit('/', 1)) for owner in owners)}"
    known = [*members, *_composed_keys(list(members))]
    same_last = [key for key in known if key.rpartition(".")[2] == last]
    near = f"; did you mean {' or '.join(same_last)}?" if same_last else _near(typed, known, cutoff=0.8)
    return near if near or prefix else f"; the groups are {', '.join(sorted(members))}"


def _composed_keys(groups: list[str]) -> list[str]:
    """Keys of the configuration that the command line's valid group choices compose."""
    GlobalHydra.instance().clear()
    typed = [argument.partition("=") for argument in sys.argv[1:]]
    valid = [
        f"{group}={member}"
        for group, _, member in typed
        if group in groups and (CONF / group / f"{member}.yaml").is_file()
    ]
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("train", overrides=valid)
    except HydraException:
        return []  # the choices clash for another reason; a suggestion is only a courtesy
    # An axis reads its values from the short names beside it; those are what a user types.
    return [
        key
        for key, value in flatten(OmegaConf.to_container(config, resolve=False))
        if not str(value).startswith("${pruner.")
    ]


def _near(typed: str, known: list[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(typed, known, n=2, cutoff=cutoff)
    return f"; did you mean {' or '.join(near)}?" if near else ""
