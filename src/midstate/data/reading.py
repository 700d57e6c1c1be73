"""Reading of images in files by worker processes, and treatment of unreadable images."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from midstate.common import checks
from midstate.common.errors import RunFailed
from midstate.data.decoding import Decoder, Unreadable, gather

log = logging.getLogger(__name__)

ON_ERROR = ("fail", "skip")
MOST_WORKERS = 8  # if `workers` is None


@dataclass(frozen=True)
class Reading:
    """How files are read, and which of them are damaged; shared by the splits of a set.

    Args:
        on_error: for a damaged image: fail, or skip.
        workers: processes that decode; 0: the training process decodes between steps; None: one a core, 8 at most.
        prefetch: batches that each worker holds ready.
        num_classes: labels must be from 0 to num_classes - 1; None: any.
        device: device of the batches.
        skipped: damaged images met so far, with the reason.
    """

    on_error: str = "fail"
    workers: int | None = None
    prefetch: int = 2
    num_classes: int | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.one_of("on_error", self.on_error, ON_ERROR)
        if self.workers is not None:
            checks.integer("workers", self.workers, 0, 1024)
        checks.integer("prefetch", self.prefetch, 1, 1024)

    def loader(self, decoder: Decoder, keys: Any, most: int | None = None, lasting: bool = False) -> DataLoader:
        """Make a DataLoader of batches of keys.

        Args:
            decoder: decodes the images.
            keys: iterable of lists of keys, one list a batch.
            most: maximum number of processes; None: no limit.
            lasting: keep the processes from one iteration to the next.
        """
        workers = cores() if self.workers is None else self.workers
        workers = workers if most is None else min(workers, most)
        return DataLoader(
            decoder,
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=gather,
            pin_memory=self.device.type == "cuda",
            generator=Generator(),  # each iteration draws a number; the default generator is training's
            worker_init_fn=_outlive_signals if workers else None,
            prefetch_factor=self.prefetch if workers else None,
            persistent_workers=lasting and workers > 0,
            # Set here, because the default context in a process of a pool works for that pool only.
            multiprocessing_context=("fork" if sys.platform == "linux" else "spawn") if workers else None,
        )

    def images(self, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a loader, on the device, without damaged images if they are to be skipped.

        Raises:
            RunFailed: an image cannot be read (and may not be skipped), or its label is out of range.
        """
        for images, labels, problems in loader:
            self._account(problems)
            self._check(labels)
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _check(self, labels: Tensor) -> None:
        """Refuse labels out of range; without a list of labels this is the first check of them."""
        wrong = [label for label in labels.tolist() if self.num_classes and not 0 <= label < self.num_classes]
        if wrong:
            raise RunFailed(
                f"an image has label {wrong[0]}; data.num_classes={self.num_classes} allows 0 to {self.num_classes - 1}"
            )

    def _account(self, problems: Sequence[Unreadable]) -> None:
        for problem in problems:
            if not problem.damaged:
                raise RunFailed(f"image {problem.name} cannot be read ({problem.reason})")
            if self.on_error == "fail":
                raise RunFailed(
                    f"image {problem.name} cannot be read ({problem.reason}); data.on_error=skip goes on without it"
                )
            if problem.name not in self.skipped:
                self.skipped[problem.name] = problem.reason
                log.warning(f"warning: image {problem.name} cannot be read ({problem.reason}) and is skipped")


def cores() -> int:
    """Default number of decoding processes: one for each core that this process may use, 8 at most.

    Processes of one run on the same machine share its cores equally.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sharing = os.environ.get("LOCAL_WORLD_SIZE", "")  # torchrun's
    return max(1, min(MOST_WORKERS, available // (int(sharing) if sharing.isdigit() and int(sharing) else 1)))


def _outlive_signals(worker: int) -> None:
    """Ignore stop signals to the process group: the run handles them, and finishes its step with the pending images."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
