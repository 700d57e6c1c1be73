"""midstate (中间态): train, prune and compare networks by the states they pass through.

Importing the package imports nothing heavy, so that `train.py --help` answers at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midstate.own_loop import prune

__version__ = "0.1.0"
__all__ = ["prune"]


def __getattr__(name: str) -> Any:
    """Import `prune`, and torch with it, when it is first asked for."""
    if name == "prune":
        from midstate.own_loop import prune

        return prune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
