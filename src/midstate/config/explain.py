"""Explains a configuration error in a few lines, with suggestions for what looks like a typo."""

import re
import sys
import traceback
from collections.abc import Collection
from pathlib import Path

import yaml
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midstate.common.checks import near
from midstate.common.errors import ConfigError
from midstate.common.help import is_shared
from midstate.common.project import member_folders
from midstate.config.compose import compose_root
from midstate.config.schema import flatten, member_file

_BARE = (ValueError, OSError, ArithmeticError, RecursionError, TypeError, AssertionError)
# Launchers and sweepers that raise errors for a setting; the error of a job comes through Hydra's JobReturn.
_PLUGINS = ("joblib", "hydra_plugins", "submitit", "ray", "optuna")
# Members that need a plugin of Hydra's, and the extra that installs it.
_EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray", "optuna": "optuna"}


def is_users(error: Exception) -> bool:
    """Tell whether an error is about the configuration; anything else is a defect and keeps its traceback."""
    if isinstance(error, InstantiationException):
        return False  # `build` has turned those of the user into ConfigError
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException):
        return True
    # Hydra answers some overrides, such as group=null, with a bare error of its own; so do its launchers.
    frames = frames_of(error)
    if isinstance(error, yaml.MarkedYAMLError):  # in a member's file
        return not any(module == "midstate.runs.run" for module, _ in frames)
    last = frames[-1][0].split(".")[0]
    if last == "submitit" or ("submitit.core.core", "map_array") in frames:  # no Slurm, or it refuses
        return isinstance(error, (*_BARE, RuntimeError))
    return (
        isinstance(error, _BARE)
        and not any(module == "midstate.runs.run" for module, _ in frames)
        and frames[-1] != ("hydra.core.utils", "return_value")  # from a job's process
        and last in ("hydra", "omegaconf", "antlr4", "os", "pathlib", *_PLUGINS)
    )


def frames_of(error: BaseException) -> list[tuple[str, str]]:
    """Module and function of each frame that an error came through, the innermost last."""
    walked = traceback.walk_tb(error.__traceback__)
    return [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame, _ in walked]


def explain(error: Exception) -> str:
    """The error in a few lines, with suggestions for what looks like a typo."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: cannot be read as YAML ({error.problem})"
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Hydra ends with its search path and how to avoid its own check; neither helps after a typo.
    noise = re.compile(r"Config search path|To append to your default list|\s*provider|To append to your config use")
    message = "\n".join(line for line in lines if not noise.match(line))
    message = re.sub(r"Available options in '.*':\n\t", "available: ", message).replace("\n\t", ", ")
    message = "\n".join(message.splitlines()[:8])
    inside = re.search(r"In '(experiment|debug|launcher|sweep)/([\w/]+)'", message)
    if inside and re.search(rf"Key '{inside[1]}' not in 'Root'|@{inside[1]}\b", message):
        return f"{member_file(*inside.groups())}: needs `# @package _global_` as its very first line"
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        message += f"\n{str(error.__cause__).splitlines()[0]}"
    if (missing := re.search(r"Could not find 'hydra/\w+/(\w+)'", message)) and missing[1] in _EXTRAS:
        extra = _EXTRAS[missing[1]]
        return f"hydra's plugin for {missing[1]} is not installed: pip install -e '.[{extra}]'"
    if isinstance(error, OverrideParseException) and "=" in error.override:
        key, _, value = error.override.partition("=")
        why = re.sub(r"^LexerNoViableAltException.*", "a letter that may only stand in quotes", lines[0])
        return f"{error.override}: not readable ({why}); to give a text, put the value into quotes: '{key}=\"{value}\"'"
    if added := re.search(r"full_key: (model\.arguments\.\S+)", str(error.__cause__)):
        return f"{message}; further arguments are added: +{added[1]}=VALUE"
    if typed := re.search(r"Could not (?:find|load) '([\w./@-]+)'", message):
        message += _suggest_member(typed[1])
    elif typed := re.search(r"Could not override '([\w./@-]+)'", message):
        message += suggest_key(typed[1])
    return message


def _suggest_member(typed: str) -> str:
    """Suggest a member for a mistyped one."""
    group, _, member = typed.rpartition("/")
    known = [name.rpartition("/")[2] for name in _member_files() if name.rpartition("/")[0] == group]
    return near(member, known)


def suggest_key(typed: str) -> str:
    """Suggest a key or a group for a mistyped one, and list the known ones."""
    files = _member_files()
    groups = {name.rpartition("/")[0] for name in files}
    if typed in groups:  # only some members of the group above bring this group
        group, _, member = typed.rpartition("/")
        owners = [name.rpartition("/")[2] for name in files if name.rpartition("/")[0] == group]
        owners = [owner for owner in owners if f"- {member}:" in files[f"{group}/{owner}"].read_text()]
        if owners:
            return f"; it goes with {group}={' or '.join(sorted(owners))}"
        return f"; {typed} is chosen by scripts/reproduce.py" if typed == "claim" else "; it is no group of train.py"
    prefix, _, last = typed.replace("/", ".").rpartition(".")
    owners = [
        name
        for name in sorted(files, key=lambda name: name.split("/"))
        if name.count("/") == 2
        and name.startswith(f"{prefix}/" if prefix else "")
        and re.search(rf"^{re.escape(last)}:", files[name].read_text(), re.MULTILINE)
    ]
    keys = _composed_keys(files)
    if prefix and owners and typed.replace("/", ".") not in keys:
        return f"; {last} is a setting of {' and '.join('='.join(owner.rsplit('/', 1)) for owner in owners)}"
    same_last = [name for name in [*sorted(groups), *keys] if re.split(r"[./]", name)[-1] == last]
    while prefix and not (inside := [key for key in keys if key.startswith(f"{prefix}.")]):
        prefix = prefix.rpartition(".")[0]
    known = inside if prefix else [*groups, *keys]
    guess = f"; did you mean {' or '.join(same_last)}?" if same_last else near(typed, known, cutoff=0.8)
    if "/" in typed and (below := sorted(name for name in groups if name.startswith(f"{prefix}/"))):
        return f"{guess}\nknown groups: {', '.join(below)}"
    if prefix:
        return f"{guess}\nknown in {prefix}: {', '.join(key.removeprefix(f'{prefix}.') for key in inside)}"
    top = ", ".join(sorted(name for name in groups if "/" not in name))
    alone = ", ".join(key for key in keys if "." not in key and key not in groups)
    return guess or f"; the groups are {top}; without a group: {alone}"


def _member_files() -> dict[str, Path]:
    """The file of every member of a group, by group/member; parts that experiments share are left out."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in member_folders()
        for path in folder.glob("*/**/*.yaml")
        if not is_shared(path.parent.relative_to(folder).as_posix())
    }


def _composed_keys(members: Collection[str]) -> list[str]:
    """Keys of the configuration composed from the valid group choices on the command line."""
    valid = [argument for argument in sys.argv[1:] if argument.replace("=", "/", 1) in members]
    try:
        config = compose_root(valid)
    except HydraException:
        return []  # the choices clash for another reason; a suggestion is only a courtesy
    # An axis reads its values from the short names beside it; those are what a user types.
    return [
        key
        for key, value in flatten(OmegaConf.to_container(config, resolve=False))
        if not str(value).startswith("${pruner.") and not key.endswith("._target_")
    ]
