"""Methods that a member of an axis must have; all its other attributes have defaults."""

from midstate.sparsity.layers import NEEDS
from midstate.sparsity.trials import Finetune

METHODS = {
    "pattern": (
        *("full(shape)", "target(shape)", "choices(shape)", "kept(shape, level)", "pool(weights)"),
        *("mask(score, level)", "expand(mask, shape)", "units(mask)", "verify(weight, level)"),
    ),
    "criterion": ("score(layer, pattern)",),
    "allocation": ("allocate(pattern, layers)",),
    "path": ("masks(pattern, layers, p)", "describe(pattern, level, p)"),
    "update": ("adjust(score, in_use, generator)",),
    "estimator": ("apply(weight, mask, memory)",),
    "penalty": ("add(layers, step, progress)",),
}


def check_member(axis: str, member: object) -> None:
    """Raise ValueError if a member lacks a method of its axis, or its `needs` is not valid."""
    name = type(member).__name__
    lacking = [each for each in METHODS.get(axis, ()) if not callable(getattr(member, each.partition("(")[0], None))]
    if lacking:
        raise ValueError(f"{axis}={name}: has no method {' and no '.join(lacking)}; every {axis} needs it")
    needs = getattr(member, "needs", ())
    if not isinstance(needs, tuple) or (unknown := [need for need in needs if need not in NEEDS]):
        wrong = needs if not isinstance(needs, tuple) else unknown
        raise ValueError(f"{axis}={name}: needs={wrong!r}: must be a tuple of names among {', '.join(NEEDS)}")
    if "trial" in needs and not isinstance(member, Finetune):
        raise ValueError(
            f"{axis}={name}: needs=('trial',): trials need the settings of a finetune; {name} must inherit "
            "midstate.sparsity.trials.Finetune"
        )
