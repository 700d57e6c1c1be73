"""Building objects from a configuration: classes of this project, of local/, and of packages that the user trusts."""

import inspect
import math
import os
import pkgutil
import re
from contextlib import suppress
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from midstate.common.checks import near
from midstate.common.errors import ConfigError, user_errors
from midstate.config import local
from midstate.config.schema import flatten

# Packages whose classes a configuration may name, beside those of local/; only the environment can add one.
TRUSTED = ("midstate", *filter(None, os.environ.get("MIDSTATE_TRUST", "").split(",")))


def build(config: DictConfig, key: str) -> Any:
    """Instantiate one node of the configuration, with every object below it.

    Raises:
        ConfigError: a target that is not trusted, a number that is not finite, or whatever a constructor refuses.
    """
    node = OmegaConf.to_container(config[key], resolve=True)
    _check_targets(key, node)  # this checked node is built: to resolve again could give another
    for name, value in flatten({key: node}):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value}: must be a finite number")
    try:
        return hydra.utils.instantiate({key: node}, _convert_="all")[key]
    except InstantiationException as error:
        cause = error.__cause__
        # Only a refused target, ValueError and TypeError are the user's; all else is a defect and keeps its traceback.
        if cause is None:  # a target that Hydra itself refuses
            raise ConfigError(str(error)) from error
        if isinstance(cause, ValueError | TypeError):
            where = re.search(r"full_key: (\S+)", str(error))
            where = where[1] if where else key
            raise ConfigError(named(where, cause, config) + _known(where, cause, config)) from error
        raise


def _check_targets(name: str, node: Any) -> None:
    """Refuse targets that are not trusted: a configuration is no program.

    A class is trusted by the module that defines it, whatever name it is reached by. All targets, in lists, too, are
    checked before any is called.

    Raises:
        ConfigError: an untrusted target, one of Hydra's own keys that change what a target does, or a reference that
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
    found = None
    # Only trusted names are looked up: a lookup imports the module, which runs its code.
    if isinstance(target, str) and re.fullmatch(r"\w+(\.\w+)+", target):
        if target.split(".")[0] in TRUSTED:
            with suppress(Exception):  # any error of a name that does not exist
                found = pkgutil.resolve_name(target)
        elif local.has_module(target):
            with user_errors(f"{name}={target}"):
                found = local.find(target)
    if not inspect.isclass(found) or not (found.__module__.split(".")[0] in TRUSTED or local.is_local(found)):
        raise ConfigError(
            f"{name}={target}: must be a class of {' or '.join(TRUSTED)}, or of a file in local/"
            f"{local.near_module(target)}; packages elsewhere are trusted by the environment variable "
            "MIDSTATE_TRUST=package,package"
        )


def _known(where: str, error: Exception, config: DictConfig) -> str:
    """The settings that a node knows, as text, if the error is about an unknown one; else nothing."""
    added = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not added:
        return ""
    known = [key for key in OmegaConf.select(config, where) if key not in (added[1], "_target_")]
    return f"{near(added[1], known)}; known: {', '.join(known)}"


def _typed_as(where: str, field_name: str, config: DictConfig) -> str | None:
    """The setting that a field of a node refers to, such as `quantizer.path_bits`; None: it refers to none."""
    node = OmegaConf.select(config, where)
    raw = OmegaConf.to_container(node, resolve=False).get(field_name) if isinstance(node, DictConfig) else None
    reference = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
    return reference and reference[1]


def named(where: str, error: Exception, config: DictConfig) -> str:
    """Name a refused field as the user types it: `pruner.n=17: must be ...`, whichever node refused it."""
    message = re.sub(r"^\w+(\.\w+)*\.__init__\(\) ", "", str(error))  # Python's own wording of a call
    field_name = re.match(r"(\w+)=", message)
    group = where.split(".")[0]
    if field_name and (typed := _typed_as(where, field_name[1], config)):
        return f"{typed}{message[len(field_name[1]) :]}"
    if field_name and OmegaConf.select(config, f"{group}.{field_name[1]}") is not None:
        return f"{group}.{message}"
    return f"{where}: {message}"
