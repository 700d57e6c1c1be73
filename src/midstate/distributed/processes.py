"""The processes of one run under torchrun: joining them, sums and averages over them, and comparing their tensors."""

import inspect
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from midstate.common.errors import RunFailed, first_line
from midstate.distributed.environment import started_by_torchrun

# 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB as signed numbers
_MIX = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
T = TypeVar("T")
# Messages of Gloo and NCCL when another process is gone.
_LOST = (
    *("onnection closed by peer", "onnection reset by peer", "Broken pipe", "Timed out waiting"),
    *("remote process exited", "ncclRemoteError"),
)
# How long the others wait while rank zero works alone: fetching data, drawing, sending a record.
TIMEOUT = timedelta(hours=2)


def digest(tensor: Tensor) -> Tensor:
    """Return an int64 checksum that depends on every bit of a tensor.

    The sum, modulo 2^64, of all words of eight bytes, each times an odd number that depends on its position.
    """
    content = tensor.detach().contiguous().flatten().view(torch.uint8)
    words = F.pad(content, (0, -len(content) % 8)).view(torch.int64)
    odd = torch.arange(1, len(words) + 1, device=tensor.device) * _MIX[0]
    for factor in _MIX[1:]:  # splitmix64's mixing: no regular pattern of differences cancels
        odd = (odd ^ (odd >> 29)) * factor
    return (words * (odd | 1)).sum()


def same_everywhere(value: T) -> T:
    """The first process's value, if a process group exists, whoever has made it; else the value itself."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values[0]


@dataclass(frozen=True)
class Processes:
    """The processes of one run.

    Args:
        rank: number of this process, 0..size-1; rank 0 owns the run's directory.
        size: number of processes.
        distributed: whether torchrun has started them, even if there is only one.
    """

    rank: int = 0
    size: int = 1
    distributed: bool = False

    @property
    def is_rank_zero(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, the same bits in each."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is set in any process."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def on_rank_zero(self, call: Callable[[], T]) -> T:
        """Call on rank zero only; every process returns its result, or raises its error."""
        if self.size == 1:
            return call()
        outcome: list[Any] = [None, None]
        own: Exception | None = None
        if self.is_rank_zero:
            try:
                outcome[0] = call()
            except Exception as error:
                own, outcome[1] = error, _sendable(error)
        distributed.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise own or outcome[1]
        return outcome[0]

    def rank_zero_first(self, call: Callable[[], T]) -> T:
        """Call on rank zero first, then on the others, which find the files that rank zero has fetched."""
        mine: list[T] = []
        self.on_rank_zero(lambda: mine.append(call()))
        return mine[0] if mine else call()

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace float tensors, in place, by their mean over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def differing(self, tensors: Sequence[Tensor]) -> list[int]:
        """Indices of the tensors that are not the same in all processes, compared by `digest`."""
        if self.size == 1 or not tensors:
            return []
        digests = torch.stack([digest(tensor) for tensor in tensors])
        rows = [torch.empty_like(digests) for _ in range(self.size)]
        distributed.all_gather(rows, digests)
        return (torch.stack(rows) != digests).any(0).nonzero().flatten().tolist()

    def parallel(self, model: nn.Module) -> nn.Module:
        """Wrap a model to average gradients over all processes (DistributedDataParallel); without torchrun, return it.

        Buffers are never broadcast: that would overwrite a mask that differs before it is compared, and send all masks
        at every forward pass.
        """
        if not self.distributed:
            return model
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        device = next(model.parameters()).device
        # On a CPU the gradients of 1x1 kernels have another memory layout; there is no remedy.
        warnings.filterwarnings("ignore", "Grad strides do not match")
        return DistributedDataParallel(
            model, device_ids=[device.index] if device.type == "cuda" else None, **{option: False}
        )


ALONE = Processes()


def _sendable(error: Exception) -> Exception:
    """The error; if it cannot be pickled, a RuntimeError with its type and message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun has started, for the time of the context; without torchrun, yield `ALONE`.

    Args:
        device: where this process computes; on GPUs gradients go over NCCL, else over Gloo.

    Raises:
        RunFailed: another process has ended in the meantime.
    """
    if not started_by_torchrun():
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    with others_at_work():
        yield Processes(distributed.get_rank(), distributed.get_world_size(), True)
    distributed.destroy_process_group()  # not after an error: it could wait for others


@contextmanager
def others_at_work() -> Iterator[None]:
    """Turn errors of lost connections into one line.

    Raises:
        RunFailed: another process of this run has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if any(lost in str(error) for lost in _LOST):
            raise RunFailed(f"another process of this run has ended ({first_line(error)})") from error
        raise
