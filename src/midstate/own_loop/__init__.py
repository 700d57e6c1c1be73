"""Pruning in a training loop of one's own: `prune(model, optimizer, "nm_block", n=2, m=4, total_steps=3000)`.

It composes what the command line composes, and hooks it to the optimizer's steps; see docs/own_loop.md.
"""

from midstate.own_loop.attaching import prune
from midstate.own_loop.handle import OwnLoop

__all__ = ["OwnLoop", "prune"]
