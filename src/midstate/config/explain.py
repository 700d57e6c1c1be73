"""A configuration error in a few lines, with suggestions for what looks like a typo."""

import re
import sys
import traceback
from collections.abc import Collection
from pathlib import Path

import yaml
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midstate.common.checks import near
from midstate.common.errors import ConfigError
from midstate.common.project import member_folders
from midstate.config.compose import compose_root
from midstate.config.schema import flatten

_BARE = (ValueError, OSError, ArithmeticError, RecursionError, TypeError, AssertionError)
# Launchers and sweepers that raise errors for a setting; the error of a job comes through Hydra's JobReturn.
_PLUGINS = ("joblib", "hydra_plugins", "submitit", "ray", "optuna")
# Members that bring a plugin of Hydra's, and the extra that installs it.
_EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray", "optuna": "optuna"}


def is_users(error: Exception) -> bool:
    """Tell whether an error speaks of the configuration; anything else is a defect and keeps its traceback."""
    if isinstance(error, InstantiationException):
        return False  # `build` has already taken out those that are the user's
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException):
        return True
    # Hydra answers some overrides, such as group=null, with a bare error of its own; so do its launchers.
    frames = _frames(error)
    if isinstance(error, yaml.MarkedYAMLError):  # a member's file
        return not any(module == "midstate.runs.run" for module, _ in frames)
    last = frames[-1][0].split(".")[0]
    if last == "submitit" or ("submitit.core.core", "map_array") in frames:  # no Slurm here, or what it refuses
        return isinstance(error, (*_BARE, RuntimeError))
    return (
        isinstance(error, _BARE)
        and not any(module == "midstate.runs.run" for module, _ in frames)
        and frames[-1] != ("hydra.core.utils", "return_value")  # a job's, from another process
        and last in ("hydra", "omegaconf", "antlr4", "os", "pathlib", *_PLUGINS)
    )


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """Module and function of each frame that an error came through, its own last."""
    walked = traceback.walk_tb(error.__traceback__)
    return [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame, _ in walked]


def explain(error: Exception) -> str:
    """The error in a few lines, with suggestions for what looks like a typo."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: cannot be read as YAML ({error.problem})"
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Hydra ends with its search path and the way round its own check; neither helps somebody who mistyped a name.
    noise = re.compile(r"Config search path|To append to your default list|\s*provider|To append to your config use")
    message = "\n".join(line for line in lines if not noise.match(line))
    message = re.sub(r"Available options in '.*':\n\t", "available: ", message).replace("\n\t", ", ")
    message = "\n".join(message.splitlines()[:8])
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        message += f"\n{str(error.__cause__).splitlines()[0]}"
    if (missing := re.search(r"Could not find 'hydra/\w+/(\w+)'", message)) and missing[1] in _EXTRAS:
        extra = _EXTRAS[missing[1]]
        return f"hydra's plugin for {missing[1]} is not installed: pip install -e '.[{extra}]'"
    if message.startswith("LexerNoViableAltException"):
        return message.replace("LexerNoViableAltException", "not readable, put the value into quotes, name='\"value\"'")
    if added := re.search(r"full_key: (model\.arguments\.\S+)", str(error.__cause__)):
        return f"{message}; further arguments are added: +{added[1]}=VALUE"
    if typed := re.search(r"Could not (?:override|find|load) '([\w./@-]+)'", message):
        message += _suggest(typed[1])
    return message


def _suggest(typed: str) -> str:
    """Suggest a group, member or key for a mistyped one."""
    files = _member_files()
    members: dict[str, list[str]] = {}
    for name in files:
        members.setdefault(name.rpartition("/")[0], []).append(name.rpartition("/")[2])
    group, _, member = typed.rpartition("/")
    if typed in members:  # a group that only some members of the one above bring
        owners = [name for name in members[group] if f"- {member}:" in files[f"{group}/{name}"].read_text()]
        return f"; it goes with {group}={' or '.join(sorted(owners))}"
    if group in members:
        return near(member, members[group])
    prefix, _, last = typed.rpartition(".")
    owners = [
        name
        for name in sorted(files, key=lambda name: name.split("/"))
        if name.count("/") == 2
        and name.startswith(f"{prefix}/" if prefix else "")
        and re.search(rf"^{re.escape(last)}:", files[name].read_text(), re.MULTILINE)
    ]
    if prefix and owners:
        return f"; {last} is a setting of {' and '.join('='.join(owner.rsplit('/', 1)) for owner in owners)}"
    known = [*members, *_composed_keys(files)]
    same_last = [key for key in known if key.rpartition(".")[2] == last]
    guess = f"; did you mean {' or '.join(same_last)}?" if same_last else near(typed, known, cutoff=0.8)
    return guess if guess or prefix else f"; the groups are {', '.join(sorted(members))}"


def _member_files() -> dict[str, Path]:
    """The file of every member of a group, by group/member; what experiments share is no member."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in member_folders()
        for path in folder.glob("*/**/*.yaml")
        if path.parent != folder / "experiment" / "base"
    }


def _composed_keys(members: Collection[str]) -> list[str]:
    """Keys of the configuration that the command line's valid group choices compose."""
    valid = [argument for argument in sys.argv[1:] if argument.replace("=", "/", 1) in members]
    try:
        config = compose_root(valid)
    except HydraException:
        return []  # the choices clash for another reason; a suggestion is only a courtesy
    # An axis reads its values from the short names beside it; those are what a user types.
    return [
        key
        for key, value in flatten(OmegaConf.to_container(config, resolve=False))
        if not str(value).startswith("${pruner.")
    ]
