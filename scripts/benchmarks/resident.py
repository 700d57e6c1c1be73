"""Peak memory of a forward pass, or of anything else."""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

Pass = Callable[[Tensor], Tensor]


def first_pass(load: Callable[[int], Pass], images: Tensor) -> tuple[Tensor, float | None]:
    """Return the outputs of a pass, and its peak memory in MiB beyond the loaded network; None where it is not known.

    Another copy of the network runs first, so that kernels compiled once and threads are not counted.
    """
    load(len(images))(images)
    run = load(len(images))
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return run(images), (torch.cuda.max_memory_allocated() - before) / 2**20
    _give_back()
    before = begin_peak()
    outputs = run(images)
    return outputs, added(before)


def _give_back() -> None:
    """Return freed memory to the system, so that the pass has to ask for it again."""
    gc.collect()
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def begin_peak() -> int | None:
    """Reset Linux's record of the peak; return the KiB resident now, or None where there is no such record."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def added(before: int | None) -> float | None:
    """Return the peak memory in MiB since `begin_peak` beyond what it returned; None where it is not known."""
    return None if before is None else (_status("VmHWM") - before) / 2**10


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
