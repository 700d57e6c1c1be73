"""Pruning in the user's own training loop: `prune(model, optimizer, "nm_block", n=2, m=4, total_steps=3000)`.

It builds the same method as the command line and hooks it to the optimizer's steps; see docs/own_loop.md.
"""

from midstate.own_loop.attaching import prune
from midstate.own_loop.handle import OwnLoop

__all__ = ["OwnLoop", "prune"]
