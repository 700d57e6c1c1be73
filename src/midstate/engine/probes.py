"""Gap probes: how far accuracy falls when a frozen network moves from one intermediate state to the next.

The masks of both states come from the same weights, so that a gap does not include re-ranking. `gap` is the
plain difference in top-1 (points, positive: a drop), `gap_bn` the same after BatchNorm statistics are
estimated anew under each mask. The same probes in every arm make paths comparable.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from midstate.common.numbers import floor
from midstate.data import Split
from midstate.engine.evaluate import evaluate
from midstate.quantization import Quantizer
from midstate.sparsity import Pruner
from midstate.sparsity.observe import EVAL_BATCH, modes_restored

NUM_IMAGES = 1000  # most training images to estimate BatchNorm statistics on


class _Masks:
    """The states of a pruner: masks."""

    def __init__(self, pruner: Pruner) -> None:
        self.pruner, self.window = pruner, pruner.window
        self.num_jumps = pruner.method.num_jumps
        self.trial = pruner.trial

    def at(self, progress: float, step: int) -> list[Tensor]:
        return self.pruner.masks_at(progress, step)

    def put(self, masks: list[Tensor]) -> AbstractContextManager[None]:
        self.pruner.set_masks(masks)
        return self.pruner.masked_training()


class _Bits:
    """The states of a quantizer: bits."""

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer, self.window = quantizer, quantizer.window
        self.trial = quantizer.trial

    @property
    def num_jumps(self) -> int:
        return self.quantizer.num_jumps

    def at(self, progress: float, step: int) -> list:
        return self.quantizer.bits_at(progress)

    def put(self, bits: list) -> AbstractContextManager[None]:
        self.quantizer.put(bits)
        return nullcontext()


class GapProbe:
    """Measures the jump that a refresh of the masks, or of a quantizer's bits, is about to make.

    State k of K lies at progress k / K; K is the number of jumps of the path. A refresh
    that crosses several states at once is one jump from the first to the last.

    Args:
        model: with masks or bits attached.
        walker: the pruner or quantizer that sets them.
        train: its first `NUM_IMAGES` images are for BatchNorm.
        validation: its first `num_images`, or as many as there are, are measured on.
    """

    def __init__(
        self, model: nn.Module, walker: Pruner | Quantizer, train: Split, validation: Split, num_images: int = 1000
    ) -> None:
        self.model, self.walker = model, walker
        self.states = _Masks(walker) if isinstance(walker, Pruner) else _Bits(walker)
        self.validation = validation.first(num_images)
        self.bn_batches = batches_for_batchnorm(train)
        self.state = 0  # the last state measured; part of a checkpoint

    def before_refresh(self, step: int) -> dict[str, float] | None:
        """Measure the gap if the refresh at `step` enters a new state, else return None; masks or bits are restored."""
        jumps = self.states.num_jumps
        state = floor(jumps * self.states.window.progress(step))
        if state <= self.state:
            return None
        # Both are computed before either is set: a state may depend on the masks in force.
        pair = [self.states.at(each / jumps, step) for each in (self.state, state)]
        with self.states.trial():
            last = self._accuracies(pair[0])
            first = last if _same(*pair) else self._accuracies(pair[1])
        row = {
            "step": step,
            "progress": state / jumps,
            "from": self.state,
            "to": state,
            "gap": last[0] - first[0],
            "gap_bn": last[1] - first[1],
        }
        self.state = state
        return row

    def _accuracies(self, state: list) -> tuple[float, float]:
        """Top-1 in percent in a given state: as is, and with BatchNorm estimated anew."""
        whole = self.states.put(state)
        raw = evaluate(self.model, self.validation)["top1"]
        if not _batchnorms(self.model):  # a second pass would give the same bits
            return raw, raw
        with whole, reestimated_batchnorm(self.model, self.bn_batches):
            return raw, evaluate(self.model, self.validation)["top1"]


def _same(state: list, other: list) -> bool:
    """Tell whether two states have the same masks, or the same bits."""
    return all(
        torch.equal(one, another) if torch.is_tensor(one) else one == another
        for one, another in zip(state, other, strict=True)
    )


def _batchnorms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def batches_for_batchnorm(train: Split) -> tuple[Tensor, ...]:
    """The first training images, in batches to estimate BatchNorm statistics on; none has a single image."""
    images = train.first(NUM_IMAGES).images
    return images.split(EVAL_BATCH + (len(images) % EVAL_BATCH == 1))


@contextmanager
def reestimated_batchnorm(model: nn.Module, batches: tuple[Tensor, ...]) -> Iterator[None]:
    """Estimate BatchNorm statistics on `batches` for the time of the context; restores them afterwards."""
    norms = _batchnorms(model)
    saved = [({name: buffer.clone() for name, buffer in norm.named_buffers()}, norm.momentum) for norm in norms]
    try:
        # Dropout draws must not move training's generator; update_bn leaves mode and momentum as they are at an error.
        with torch.random.fork_rng(), modes_restored(model):
            update_bn(batches, model)
        yield
    finally:
        for norm, (buffers, momentum) in zip(norms, saved, strict=True):
            norm.momentum = momentum
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
