"""Rank and size of the process group, from the environment variables that torchrun sets."""

import os


def started_by_torchrun() -> bool:
    """Tell whether this process is one of those that torchrun has started for one run."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def local_rank() -> int:
    """Number of this process among those on its machine, 0 without torchrun."""
    return int(os.environ["LOCAL_RANK"]) if started_by_torchrun() else 0


def local_size() -> int:
    """Number of the run's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if started_by_torchrun() else 1


def world_size() -> int:
    """Number of the run's processes on all machines."""
    return int(os.environ["WORLD_SIZE"]) if started_by_torchrun() else 1
