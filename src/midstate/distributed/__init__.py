"""Several processes and machines: torchrun, signals, launchers of sweeps, what the hardware offers."""

from midstate.distributed.launchers import RayJobs, Search, SubmititJobs

__all__ = ["RayJobs", "Search", "SubmititJobs"]
