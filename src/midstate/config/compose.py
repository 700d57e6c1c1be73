"""Composing a configuration as the command line does."""

from typing import TYPE_CHECKING

from midstate.common.project import ROOT

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed(*overrides: str) -> "DictConfig":
    """Compose a configuration as `python train.py OVERRIDES` does, with Hydra's own facts in place."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config
