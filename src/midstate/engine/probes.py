"""Gap probes: how far accuracy falls when a frozen network moves from one intermediate state to the next.

Both masks come from the same weights, so that re-ranking is left out. `gap` is the plain difference in
top-1 (points, positive: a drop), `gap_bn` the same after BatchNorm statistics are estimated anew under
each mask. The same probes in every arm make paths comparable.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from midstate.common.numbers import floor
from midstate.data import Split
from midstate.engine.evaluate import evaluate
from midstate.sparsity import Pruner
from midstate.sparsity.observe import EVAL_BATCH

NUM_IMAGES = 1000  # at most, of validation to measure on and of training to estimate BatchNorm on


class GapProbe:
    """Measures the jump that a refresh of the masks is about to make.

    State k of K lies at progress k / K; K is the number of jumps of the pattern's own path. A refresh
    that crosses several states at once is one jump from the first to the last.
    """

    def __init__(self, model: nn.Module, pruner: Pruner, train: Split, validation: Split) -> None:
        self.model, self.pruner = model, pruner
        self.validation = validation.first(NUM_IMAGES)
        self.bn_batches = train.first(NUM_IMAGES).images.split(EVAL_BATCH)
        self.num_jumps = pruner.method.pattern.num_jumps
        self.state = 0  # the last state measured; part of a checkpoint

    def before_refresh(self, step: int) -> dict[str, float] | None:
        """Measure, if the refresh at `step` crosses into a new state; masks are put back as they were."""
        state = floor(self.num_jumps * self.pruner.window.progress(step))
        if state <= self.state:
            return None
        # Both before either is set: what comes next may depend on what is in force.
        masks = [self.pruner.masks_at(each / self.num_jumps, step) for each in (self.state, state)]
        with self.pruner.trial():
            last, first = map(self._accuracies, masks)
        row = {
            "step": step,
            "progress": state / self.num_jumps,
            "from": self.state,
            "to": state,
            "gap": last[0] - first[0],
            "gap_bn": last[1] - first[1],
        }
        self.state = state
        return row

    def _accuracies(self, masks: list[Tensor]) -> tuple[float, float]:
        """Top-1 under given masks: as is, and with BatchNorm estimated anew."""
        self.pruner.set_masks(masks)
        raw = evaluate(self.model, self.validation)["top1"]
        with self.pruner.masked_training(), reestimated_batchnorm(self.model, self.bn_batches):
            return raw, evaluate(self.model, self.validation)["top1"]


@contextmanager
def reestimated_batchnorm(model: nn.Module, batches: tuple[Tensor, ...]) -> Iterator[None]:
    """Estimate BatchNorm statistics on `batches` for the time of the context; restores them afterwards."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    saved = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    with torch.random.fork_rng():  # dropout draws while estimating must not move training's generator
        update_bn(batches, model)
    try:
        yield
    finally:
        for norm, buffers in zip(norms, saved, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
