"""Memory that a pass takes at its peak."""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

Pass = Callable[[Tensor], Tensor]


def first_pass(load: Callable[[int], Pass], images: Tensor) -> tuple[Tensor, float | None]:
    """Outputs of a pass, and the MiB that it takes at its peak beside the loaded network; None where none can tell.

    Another copy goes first: kernels that a runtime compiles once, and its threads, count for no network.
    """
    load(len(images))(images)
    run = load(len(images))
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return run(images), (torch.cuda.max_memory_allocated() - before) / 2**20
    _give_back()
    before = _begin_peak()
    outputs = run(images)
    return outputs, None if before is None else (_status("VmHWM") - before) / 2**10


def _give_back() -> None:
    """Return freed memory to the system, so that the pass has to ask for it again."""
    gc.collect()
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _begin_peak() -> int | None:
    """Let Linux measure the peak from here on; resident KiB now, None where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
