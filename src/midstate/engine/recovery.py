"""Recovery: top-1 of a network just after it was pruned, and when it is finished, on images that no run sees."""

from torch import nn

from midstate.data import Split
from midstate.engine.evaluate import evaluate
from midstate.engine.probes import batches_for_batchnorm, reestimated_batchnorm


class Recovery:
    """Measures top-1 in percent with BatchNorm estimated anew, so that damage is of the weights alone.

    Args:
        model: the network in training, or finished.
        train: its first `probes.NUM_IMAGES` images are for BatchNorm.
        unused: images to measure on.
    """

    def __init__(self, model: nn.Module, train: Split, unused: Split) -> None:
        self.model, self.unused = model, unused
        self.bn_batches = batches_for_batchnorm(train)
        self.just_pruned: float | None = None  # part of a checkpoint; None: not pruned yet

    def top1(self) -> float:
        """Top-1 in percent of the network as it is now; neither it nor a generator changes."""
        with reestimated_batchnorm(self.model, self.bn_batches):
            return evaluate(self.model, self.unused)["top1"]

    def report(self) -> dict[str, int | float | None]:
        """The entry of summary.json; call it with the finished network."""
        return {"images": len(self.unused), "just_pruned": self.just_pruned, "finished": self.top1()}
