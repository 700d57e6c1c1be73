"""Calls before and after each optimizer step, on unscaled gradients, for any kind of loop."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class StepHooks:
    """Calls `before` when a step's gradients are ready, and `after` when the step is made.

    Loops differ in three ways. With `step(closure)` there are no gradients yet when the hook runs, so the closure is
    wrapped and calls `before` at its end. A GradScaler calls a fused optimizer also for steps to be skipped, and with
    scaled gradients: they are unscaled here, as `unscale_` does. Other optimizers are not called for skipped steps.
    """

    def __init__(self, optimizer: Optimizer, before: Callable[[], None], after: Callable[[], None]) -> None:
        """Register the hooks.

        Args:
            optimizer: the optimizer to follow.
            before: called with gradients in place: unscaled, and clipped where the loop clips.
            after: called when the step is made; not for a step that a GradScaler skips.
        """
        self._before, self._after = before, after
        self._made = False
        self._call: FrameType | None = None  # frame of the `step` call in progress
        self._handles = [optimizer.register_step_pre_hook(self._begin), optimizer.register_step_post_hook(self._end)]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        if self._call is not None and _is_running(self._call):
            return None  # hooks run twice if a class's `step` calls its base's
        self._call = sys._getframe(1)
        self._made = not bool(getattr(optimizer, "found_inf", None))
        if not self._made:
            return None
        if len(args) > 1 and args[1] is not None:
            return (args[0], self._wrapped(args[1]), *args[2:]), kwargs
        if kwargs.get("closure") is not None:
            return args, {**kwargs, "closure": self._wrapped(kwargs["closure"])}
        unscale(optimizer)
        self._before()
        return None

    def _end(self, optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        if sys._getframe(1) is not self._call:
            return
        self._call = None
        if self._made:
            self._after()

    def _wrapped(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        called = False

        def once() -> Any:
            nonlocal called
            if called:
                raise ValueError(
                    "optimizer: calls its closure more than once a step, and which of these gradients count is not "
                    "known; choose one that calls it once"
                )
            called = True
            loss = closure()
            self._before()
            return loss

        return once


def _is_running(call: FrameType) -> bool:
    """Tell whether a frame is still on the stack of calls; a `step` that an error has ended is not."""
    frame = sys._getframe(1)
    while frame is not None and frame is not call:
        frame = frame.f_back
    return frame is call


@torch.no_grad()
def unscale(optimizer: Optimizer) -> None:
    """Divide gradients by the scale that a GradScaler hands to a fused optimizer, bit for bit as `unscale_` does.

    Args:
        optimizer: about to step; `grad_scale` is None afterwards, so that nothing is divided twice.
    """
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    inverse = scale.double().reciprocal().float()
    by_device: dict[torch.device, list[Tensor]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_device.setdefault(parameter.grad.device, []).append(parameter.grad)
    for device, gradients in by_device.items():
        torch._foreach_mul_(gradients, inverse.to(device))
    optimizer.grad_scale = None
