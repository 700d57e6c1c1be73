"""Hardware and memory: the processor, bfloat16, out-of-memory errors, keeping freed memory in the process."""

import ctypes
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from midstate.common.errors import RunFailed, first_line

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
KEEP = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}  # never trim the heap, and let it hold large allocations, too


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation instead of giving it back to the system; False where unknown.

    A training step frees and allocates the same activations over and over; glibc gives those of 128 KiB or more
    back each time, and the system then hands out zeroed pages anew: a fifth of a small network's training time, more of
    a large one's. The process keeps its peak, which is somewhat higher, until it ends; results do not change.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt  # glibc's
    except (AttributeError, OSError, TypeError):
        return False
    taken = [set_option(option, value) for option, value in KEEP.items()]  # all are set, even if one fails
    return all(taken)


def fast_at_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 much faster than float32: in hardware, with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    offered = torch.cpu.get_capabilities()
    return bool(offered.get("amx_bf16") or offered.get("avx512_bf16"))


def processor_name() -> str:
    """The processor's name as Linux tells it; elsewhere, or where that cannot be read, as Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turn errors of memory, and of processes that read images, into one line.

    Raises:
        RunFailed: memory has run out, on the CPU or a GPU, or a process that reads images has ended.
    """
    try:
        yield
    except (MemoryError, RuntimeError, ImportError) as error:
        if is_memory(error):
            raise RunFailed(
                f"out of memory ({first_line(error)}); a smaller trainer.batch_size, network or image may help"
            ) from error
        if re.match(r"DataLoader worker \(pid.* (is killed|exited)", str(error)):
            raise RunFailed(
                f"a process that reads images is gone ({first_line(error)}); where memory is short, machine.workers=0 "
                "or a smaller machine.prefetch may help"
            ) from error
        raise


def is_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory has run out; torch has an exception type of its own for GPUs only."""
    said = ("can't allocate memory", "Storage size calculation overflowed", "failed to map segment")  # last: an import
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in str(error) for each in said)
