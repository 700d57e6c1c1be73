"""`OwnLoop`, the handle that `prune` returns: the pruner in a loop that does not call it."""

import logging
from collections.abc import Collection, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from midstate.own_loop.hooks import StepHooks
from midstate.sparsity import Pruner
from midstate.sparsity.tensors import original

log = logging.getLogger(__name__)
NAMED = 8  # most layers named by `describe`


class OwnLoop:
    """Follows an optimizer: applies rules on gradients before each step, and refreshes masks after it.

    `step` counts the optimizer steps made; `pruner` is the pruner itself.
    """

    def __init__(
        self,
        name: str,
        pruner: Pruner,
        optimizers: Sequence[Optimizer],
        total_steps: int,
        classifier: Collection[str],
        left_dense: Collection[str],
        added: Sequence[nn.Parameter],
    ) -> None:
        """Store the arguments; `begin` attaches the hooks.

        Args:
            name: name of the method, to be shown.
            pruner: a pruner attached to the model.
            optimizers: the steps of the first are counted, and masks change after them; it is to step last.
            total_steps: optimizer steps of the run.
            classifier: names of its layers, to be shown.
            left_dense: layers left dense with the reasons, to be shown.
            added: parameters of the method, which are to be trained by the first optimizer.
        """
        self.name, self.pruner, self.total_steps, self.step = name, pruner, total_steps, 0
        self._optimizers, self._added = list(optimizers), list(added)
        self._classifier, self._left_dense = sorted(classifier), list(left_dense)
        self._kept: float | None = None  # share kept; None until finalised
        self._hooks: list[StepHooks] = []

    def begin(self) -> None:
        """Make the first refresh, and follow the optimizers from now on."""
        self.pruner.tick(0)
        if self._added:
            _join(self._optimizers, self._added, self._originals())
        self._hooks = [
            StepHooks(each, partial(self._before, each), partial(self._after, each)) for each in self._optimizers
        ]

    @property
    def progress(self) -> float:
        """How far along its path the network is, 0..1."""
        return self.pruner.window.progress(self.step)

    def kept(self) -> float:
        """Share of the weights in scope that are in use now, 0..1."""
        if self._kept is not None:
            return self._kept
        sizes = [weight.numel() for weight in self._originals()]
        return sum(share * size for share, size in zip(self.pruner.kept(), sizes, strict=True)) / sum(sizes)

    def describe(self) -> str:
        """The state in a line: step, state on the path, share kept, classifier, and which layers stay dense and why."""
        dense, more = ", ".join(self._left_dense[:NAMED]) or "none", len(self._left_dense) - NAMED
        return (
            f"{self.name}, step {self.step} of {self.total_steps}: {self.pruner.describe(self.step)}, "
            f"{100 * self.kept():.3g} % of the weights of {len(self.pruner.layers)} layers in use; classifier: "
            f"{', '.join(self._classifier) or 'none'}; dense: {dense}{f' and {more} more' if more > 0 else ''}"
        )

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, beside the model's and the optimizers' own state."""
        return {"step": self.step, "total_steps": self.total_steps, "pruner": self.pruner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; restore those of model and optimizers after `prune`, too.

        Raises:
            ValueError: the state is of a run with another `total_steps`, so the schedule differs.
        """
        if state["total_steps"] != self.total_steps:
            raise ValueError(
                f"total_steps={self.total_steps}: the checkpoint is of a run of {state['total_steps']} steps; give the "
                "same number"
            )
        self.step = state["step"]
        self.pruner.load_state_dict(state["pruner"])

    def finalise(self) -> None:
        """Make the last refresh, fold the masks into the weights and leave a plain model and plain optimizers.

        Raises:
            ValueError: called before `total_steps` steps are made, or a second time.
            RuntimeError: the finished weights do not obey the pattern.
        """
        if self._kept is not None:
            raise ValueError("finalise: was called before; the model is plain")
        if self.step < self.total_steps:
            raise ValueError(
                f"finalise: {self.step} optimizer steps are made, and total_steps={self.total_steps}; go on, "
                "or give the number of steps that the loop makes (accumulated batches make one)"
            )
        self.pruner.refresh(self.step)
        kept = self.kept()
        self.pruner.finalise()
        self._kept = kept
        for hooks in self._hooks:
            hooks.remove()
        for parameter in self._added:
            _leave(self._optimizers[0], parameter)
        if self.pruner.verify() is False:
            raise RuntimeError(f"finalise: the weights do not obey {self.pruner.describe(self.step)}; this is a defect")

    @torch.no_grad()
    def _before(self, optimizer: Optimizer) -> None:
        self.pruner.before_step(optimizer, self.step, self._held(optimizer))

    @torch.no_grad()
    def _after(self, optimizer: Optimizer) -> None:
        self.pruner.after_step(optimizer, self._held(optimizer))
        if optimizer is not self._optimizers[0]:
            return
        self.step += 1
        self.pruner.tick(self.step)
        if self.step == self.total_steps + 1:
            log.warning(f"warning: more than total_steps={self.total_steps} steps: masks stay as they are from now on")

    def _held(self, optimizer: Optimizer) -> frozenset[int] | None:
        """Ids of an optimizer's parameters; None: it is the only optimizer."""
        if len(self._optimizers) == 1:
            return None
        return frozenset(id(each) for group in optimizer.param_groups for each in group["params"])

    def _originals(self) -> list[torch.Tensor]:
        """The hidden weights, as the optimizers have them."""
        return [original(layer.module, layer.tensor_name) for layer in self.pruner.layers]


def _join(optimizers: Sequence[Optimizer], added: Sequence[nn.Parameter], weights: Sequence[torch.Tensor]) -> None:
    """Add a group of parameters to the first optimizer, with the settings of the group that holds the first weight."""
    ids, first = {id(weight) for weight in weights}, optimizers[0].param_groups
    like = next((group for group in first if any(id(each) in ids for each in group["params"])), first[0])
    options = {key: deepcopy(value) for key, value in like.items() if key not in ("params", "param_names")}
    named = "param_names" in like
    params = [(f"pruner.{i}", each) for i, each in enumerate(added)] if named else list(added)
    optimizers[0].add_param_group({**options, "params": params})


def _leave(optimizer: Optimizer, parameter: nn.Parameter) -> None:
    """Remove a parameter and its state from the optimizer, and its group if that is then empty."""
    for group in list(optimizer.param_groups):
        places = [i for i, each in enumerate(group["params"]) if each is parameter]
        for i in places:
            del group["params"][i]
            if "param_names" in group:
                del group["param_names"][i]
        if places and not group["params"]:
            optimizer.param_groups.remove(group)
    optimizer.state.pop(parameter, None)
