"""Hydra reads and merges the same files once in a process, which was a quarter of all tests' time.

What a file holds is kept until it changes, and what the files and the choices of members make; typed values are set on
a copy, by Hydra itself.
"""

import copy
import os
from dataclasses import replace
from typing import Any

from hydra._internal import config_loader_impl as hydra
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import Overrides
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig

from midstate.common.project import CONF

KEPT = 64  # sets of choices


def install() -> None:
    """Keep what is read and merged from now on in this process."""
    _keep_files()
    _keep_merged()


def _keep_files() -> None:
    """Parse a file again only when it has changed."""
    parsed: dict[tuple, Any] = {}
    parse = ConfigRepository.load_config

    def load(repo: ConfigRepository, config_path: str) -> Any:
        source = repo._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() not in ("file", "pkg"):
            return parse(repo, config_path)
        key = (source.scheme(), source.path, source.provider, config_path)
        if source.scheme() == "file":
            key = (*key, os.stat(os.path.join(source.path, source._normalize_file_name(config_path))).st_mtime_ns)
        if key not in parsed:
            parsed[key] = parse(repo, config_path)
        return copy.deepcopy(parsed[key])

    ConfigRepository.load_config = load


def _keep_merged() -> None:
    """Keep what is merged; with files outside conf/, which tests change, nothing is."""
    lists: dict[tuple, Any] = {}
    configs: dict[int, DictConfig | None] = {}  # by the identity of the list that is kept; None: not merged yet
    list_defaults, merge = hydra.create_defaults_list, hydra.ConfigLoaderImpl._compose_config_from_defaults_list

    def defaults(repo: Any, config_name: Any, overrides_list: Any, **how: Any) -> Any:
        if [source.path for source in repo.get_sources() if source.scheme() == "file"] != [str(CONF)]:
            return list_defaults(repo, config_name, overrides_list, **how)
        values = Overrides(repo, overrides_list).config_overrides
        choices = [each for each in overrides_list if each not in values]
        key = (config_name, *(each.input_line for each in choices), *how.items())
        if key not in lists:
            if len(lists) == KEPT:
                del configs[id(lists.pop(next(iter(lists))).defaults)]
            lists[key] = list_defaults(repo, config_name, choices, **how)
            configs[id(lists[key].defaults)] = None
        return replace(lists[key], config_overrides=values)

    def compose(loader: Any, defaults: Any, repo: Any) -> DictConfig:
        if id(defaults) not in configs:
            return merge(loader, defaults, repo)
        if configs[id(defaults)] is None:
            configs[id(defaults)] = merge(loader, defaults, repo)
        return copy.deepcopy(configs[id(defaults)])

    hydra.create_defaults_list, hydra.ConfigLoaderImpl._compose_config_from_defaults_list = defaults, compose
