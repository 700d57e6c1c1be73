"""A run: planned, prepared, trained, and written to its directory. Start reading at `run.py`."""

from midstate.runs.identity import NEUTRAL, NUMERICS, config_hash
from midstate.runs.tracking import Wandb

__all__ = ["NEUTRAL", "NUMERICS", "Wandb", "config_hash"]
