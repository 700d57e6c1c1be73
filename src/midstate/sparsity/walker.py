"""Base of pruner and quantizer: at which steps they act, and the callback before they measure."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch import nn

from midstate.common.seeds import seed_for
from midstate.sparsity.observe import Sample
from midstate.sparsity.patterns.nm import Level
from midstate.sparsity.search import Search
from midstate.sparsity.trials import Finetune, Trials
from midstate.sparsity.updates.base import RefreshSteps


class Walker:
    """Walks a model to its target; subclasses add `refresh(step)`, and set `refresh_steps`."""

    refresh_steps: RefreshSteps

    def __init__(self) -> None:
        self.search: Search | None = None  # if the allocation tries whole schemes
        self._refreshed = -1  # step of the last refresh; -1: none yet
        self._before_measuring: list[Callable[[], None]] = []

    def on_measuring(self, call: Callable[[], None]) -> None:
        """Set the function called before each measured loss or size; it may raise to stop, and masks stay the same."""
        self._before_measuring[:] = [call]

    def due(self, step: int) -> bool:
        """Tell whether `tick` would refresh at `step`."""
        return self.refresh_steps.due(step)

    def refreshes_at_eval(self, step: int) -> bool:
        """Tell whether `refresh` may change anything for an evaluation at `step`."""
        return self.refresh_steps.refreshes_at_eval(step)

    def tick(self, step: int) -> None:
        """Refresh before the forward pass of `step`, if that is due."""
        if self.due(step):
            self.refresh(step)

    def refresh(self, step: int) -> None:
        """Refresh from the present weights, at the schedule's progress at `step`."""
        raise NotImplementedError

    def _try_schemes(
        self,
        model: nn.Module,
        settings: Finetune,
        sample: Sample,
        seed: int,
        at_levels: Callable[[Sequence[Level]], AbstractContextManager[None]],
    ) -> None:
        """Set `search`, with which an allocation tries whole schemes; see `Trials`."""
        trials = Trials(model, settings, sample, seed_for(seed, "trials"), at_levels)
        self.search = Search(trials.trial, trials.dense_top1)
