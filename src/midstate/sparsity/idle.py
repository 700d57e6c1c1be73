"""Settings of a pruner that other settings make ineffective, and why."""

from midstate.sparsity.allocations.budget import Budget
from midstate.sparsity.estimators.candidates import LearnedCombinations
from midstate.sparsity.method import Method
from midstate.sparsity.paths.blocks import Blocks
from midstate.sparsity.paths.direct import Direct

Idle = tuple[bool, tuple[str, ...], str]  # whether they have no effect; their prefixes on the command line; why


def idle(method: Method, curve: str, alone: bool = True) -> list[Idle]:
    """List settings, and whether they have no effect.

    Args:
        method: the axes.
        curve: name of the schedule's curve.
        alone: whether no quantizer needs the schedule's curve and stop.
    """
    one_shot = not method.dense and curve == "one_shot"
    budget = method.allocation if isinstance(method.allocation, Budget) else None
    return [
        (
            isinstance(method.path, Direct) and alone,
            ("schedule=", "schedule.stop=", "schedule.curve="),
            "this pruner has no intermediate states and jumps at schedule.start",
        ),
        (one_shot, ("schedule.stop=",), "one_shot goes the whole way at schedule.start"),
        (budget is not None and budget.score != "owl", ("pruner.spread=",), "only pruner.score=owl reads it"),
        (budget is not None and budget.score != "hessian", ("pruner.vectors=",), "only pruner.score=hessian reads it"),
        (
            isinstance(method.path, Blocks) and method.path.order == "random",
            ("pruner.rerank=",),
            "a fixed random order is never ranked again",
        ),
        (
            isinstance(method.estimator, LearnedCombinations),
            ("pruner/criterion=",),
            "estimator=candidates ranks combinations by what it has learnt",
        ),
        (
            not method.permutes,
            ("pruner.permute_seconds=",),
            "pruner.permute=false: channels stay in their order",
        ),
    ]
