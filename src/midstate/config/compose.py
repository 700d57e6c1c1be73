"""Composing a configuration as the command line does."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, open_dict
from packaging.version import Version

from midstate.common.errors import ConfigError, first_line
from midstate.common.project import CONF, LOCAL
from midstate.config.texts import as_typed


class LocalMembers(SearchPathPlugin):
    """Puts local/conf, where it exists, behind conf/ on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder; raise ConfigError if a file in it is no UTF-8 .yaml, or is hidden by one in conf/."""
        folder = LOCAL / "conf"
        if folder.is_dir():
            _check_files(folder)
            search_path.append("local", str(folder))


def register_local_members() -> None:
    """Let Hydra find the members in local/conf, from now on and in this process."""
    Plugins.instance().register(LocalMembers)


def run_composed_once(main: Callable[[], None], typed: Sequence[str]) -> None:
    """Call a `hydra.main` function for a command line; a single run is composed once instead of twice.

    Hydra composes first only to see whether `hydra.mode` asks for a sweep. Here Hydra's `run` refuses such a mode
    before anything is done; then `main` goes Hydra's own way, as for a command line with flags or several values.

    Args:
        main: decorated; its configuration is conf/train.yaml.
        typed: the command line, which `check_command_line` has accepted.
    """
    begun = []

    def job(config: DictConfig) -> object:
        begun.append(True)
        return main.__wrapped__(config)  # type: ignore[attr-defined]

    if _is_single(typed):
        try:
            with initialize_config_dir(str(CONF), "train", version_base="1.3"):
                GlobalHydra.instance().hydra.run("train", job, list(typed))
            return
        except AssertionError:  # `hydra.mode` asks for a sweep
            if begun:
                raise
    main()


def _is_single(typed: Sequence[str]) -> bool:
    """Tell whether a command line has neither flags nor several values of one setting."""
    if any(each.startswith("-") for each in typed):
        return False
    return not any(each.is_sweep_override() for each in OverridesParser.create().parse_overrides(list(typed)))


def composed(*overrides: str) -> DictConfig:
    """Compose a configuration as `python train.py OVERRIDES` does, and set `HydraConfig`."""
    config = compose_root(overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def compose_root(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    """Compose a configuration from conf/ and local/conf/; `return_hydra_config` leaves Hydra's own node in it."""
    GlobalHydra.instance().clear()
    register_local_members()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=as_typed(list(overrides)), return_hydra_config=return_hydra_config)


def compose_aside(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Compose a configuration and leave Hydra's globals as they are: the caller may itself be a Hydra program.

    Args:
        overrides: as on the command line.

    Returns:
        The configuration without Hydra's own node, and the chosen member of each group.
    """
    Plugins.instance()  # registers the kinds of sources
    version, search_path = VersionBase.instance(), ConfigSearchPathImpl()
    search_path.append("hydra", "pkg://hydra.conf")
    search_path.append("main", f"file://{CONF}")
    LocalMembers().manipulate_search_path(search_path)
    search_path.append("schema", "structured://")
    before, version.version_base = version.version_base, Version("1.3")
    try:
        overrides = [*as_typed(list(overrides)), "hydra.job.name=midstate"]
        config = ConfigLoaderImpl(search_path).load_configuration("train", overrides, RunMode.RUN)
    finally:
        version.version_base = before
    choices = {key: str(value) for key, value in config.hydra.runtime.choices.items() if value is not None}
    with open_dict(config):
        del config["hydra"]
    return config, choices


def _check_files(folder: Path) -> None:
    for path in sorted(folder.rglob("*.y*ml")):
        name = path.relative_to(folder)
        if path.suffix != ".yaml":
            raise ConfigError(f"local/conf/{name}: Hydra reads only files whose names end in .yaml")
        if (CONF / name).is_file():
            raise ConfigError(f"local/conf/{name}: conf/{name} comes first and would hide it; give it another name")
        try:
            path.read_text("utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"local/conf/{name}: cannot be read as UTF-8 text ({first_line(error)})") from error
