"""Configuration: its schema, composing it, and building objects from it.

Imports nothing heavy: a refused override must be answered at once.
"""

from midstate.config.building import build

__all__ = ["build"]
