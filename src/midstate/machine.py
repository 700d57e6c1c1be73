"""What the machine offers, and how it treats memory that is freed."""

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST = {M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 2**31 - 1}  # bytes; glibc takes no more


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation instead of giving it back to the system; False where unknown.

    A training step frees and allocates the same activations over and over; glibc gives those of 128 KiB or more
    back each time, and the system then hands out zeroed pages anew: a fifth of a small network's training. The
    process keeps its peak until it ends; results do not change.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt  # glibc's
    except (AttributeError, OSError, TypeError):
        return False
    taken = [set_option(option, value) for option, value in LARGEST.items()]  # all of them, whatever becomes of one
    return all(taken)


def fast_at_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 much faster than float32: in hardware, with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    offered = torch.cpu.get_capabilities()
    return bool(offered.get("amx_bf16") or offered.get("avx512_bf16"))
