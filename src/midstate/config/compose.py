"""Composing a configuration as the command line does."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from midstate.common.project import CONF


def composed(*overrides: str) -> DictConfig:
    """Compose a configuration as `python train.py OVERRIDES` does, with Hydra's own facts in place."""
    config = compose_root(overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def compose_root(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    """Compose a configuration; `return_hydra_config` leaves Hydra's own node in it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=return_hydra_config)
