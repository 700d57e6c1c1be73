"""step_bf16: as `step`, with bf16 autocast and channels last; refused where a processor has to emulate bf16."""

from typing import Any

import torch

from benchmarks import step
from benchmarks.step import shown
from midstate.common.errors import ConfigError
from midstate.distributed.machine import fast_at_bfloat16

__all__ = ["measure", "shown"]


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a way of training and refresh interval.

    Raises:
        ConfigError: the processor has no instructions for bf16.
    """
    if not fast_at_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        raise ConfigError("step_bf16: this processor has no instructions for bf16; emulated, a step takes a minute")
    return step.measure(repeats, settings=("bf16, channels last",))
