"""What a pruner and a quantizer have in common: when they act, and what is called before they measure."""

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
    """Base of those that walk a model to its target; members add `refresh(step)`, and set `refresh_steps`."""

    refresh_steps: RefreshSteps

    def __init__(self) -> None:
        self.search: Search | None = None  # where the allocation tries whole schemes
        self._refreshed = -1  # the last step at which it was refreshed
        self._before_measuring: list[Callable[[], None]] = []

    def on_measuring(self, call: Callable[[], None]) -> None:
        """Have `call` called before each loss that an allocation measures; it may raise to stop, nothing is lost."""
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
        """Follow the present weights, and go as far as the schedule says at `step`."""
        raise NotImplementedError

    def _try_schemes(
        self,
        model: nn.Module,
        settings: Finetune,
        sample: Sample,
        seed: int,
        at_levels: Callable[[Sequence[Level]], AbstractContextManager[None]],
    ) -> None:
        """Make what an allocation tries whole schemes by; see `Trials`."""
        trials = Trials(model, settings, sample, seed_for(seed, "trials"), at_levels)
        self.search = Search(trials.trial, trials.dense_top1)
