"""The training loop and what it measures."""

from midstate.engine.settings import Trainer

__all__ = ["Trainer"]
