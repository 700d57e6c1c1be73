"""Cached identities of the claims' experiments, valid until code, settings, versions or machine change."""

import hashlib
import json
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

from midstate.common.files import write_atomically
from midstate.common.project import CONF, LOCAL
from midstate.study.planning import OUTPUTS

FILE = OUTPUTS / "reproduce" / "identities.json"
PACKAGE = Path(__file__).parents[1]
_VARIABLES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES")  # what `auto` stands for depends on them


def read() -> dict[tuple[str, tuple[str, ...]], str]:
    """Identity of each experiment and its overrides; empty if code, settings, versions or machine have changed."""
    try:
        content = json.loads(FILE.read_text())
        if content["of"] != _state():
            return {}
        return {(arm, tuple(overrides)): identity for arm, overrides, identity in content["identities"]}
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        return {}


def keep(found: dict[tuple[str, tuple[str, ...]], str]) -> None:
    """Add identities that were just composed."""
    if new := {cell: identity for cell, identity in found.items() if read().get(cell) != identity}:
        rows = [[arm, overrides, identity] for (arm, overrides), identity in {**read(), **new}.items()]
        write_atomically(FILE, json.dumps({"of": _state(), "identities": rows}).encode())


@cache
def _state() -> str:
    """Digest of all that an identity may depend on: the code but for the study, all settings, versions, the machine."""
    digest = hashlib.sha256()
    folders = (PACKAGE, CONF, LOCAL)
    for file in sorted(file for folder in folders for file in folder.rglob("*") if file.is_file()):
        if "__pycache__" not in file.parts and not file.is_relative_to(PACKAGE / "study"):
            digest.update(f"{file} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    devices = [file.read_text() for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    machine = [version("torch"), devices, os.cpu_count(), [os.environ.get(each) for each in _VARIABLES]]
    digest.update(json.dumps(machine).encode())
    return digest.hexdigest()
