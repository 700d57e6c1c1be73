"""Recovery: what a network knows when it has just been pruned, and when it is finished, on images no run sees."""

from torch import nn

from midstate.data import Split
from midstate.engine.evaluate import evaluate
from midstate.engine.probes import NUM_IMAGES, reestimated_batchnorm
from midstate.sparsity.observe import EVAL_BATCH


class Recovery:
    """Measures top-1 in percent, BatchNorm estimated anew, so that a damage is of the weights alone.

    Args:
        model: that is trained, or finished.
        train: its first images are for BatchNorm.
        unused: images to measure on.
    """

    def __init__(self, model: nn.Module, train: Split, unused: Split) -> None:
        self.model, self.unused = model, unused
        self.bn_batches = train.first(NUM_IMAGES).images.split(EVAL_BATCH)
        self.just_pruned: float | None = None  # part of a checkpoint; None: not pruned yet

    def top1(self) -> float:
        """Top-1 of the network as it is now; nothing of it changes, and no generator moves."""
        with reestimated_batchnorm(self.model, self.bn_batches):
            return evaluate(self.model, self.unused)["top1"]

    def report(self) -> dict[str, int | float | None]:
        """What goes into the summary; call with the finished network."""
        return {"images": len(self.unused), "just_pruned": self.just_pruned, "finished": self.top1()}
