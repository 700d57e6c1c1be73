"""The progress bar of what an allocation measures: there while measurements last, which can be minutes."""

from tqdm import tqdm


class Measuring:
    """Opens with the first measurement, counts them, and is gone when closed.

    Args:
        shown: whether this process shows bars; on a terminal only in any case.
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self._bar: tqdm | None = None

    def update(self) -> None:
        """Count a measurement."""
        if self._bar is None:
            self._bar = tqdm(desc="measuring losses", unit="loss", leave=False, disable=None if self.shown else True)
        self._bar.update()

    def close(self) -> None:
        """Remove the bar; the next measurement opens another."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
