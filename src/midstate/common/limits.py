"""Allowed values of the settings of pruning, class by class; those of training are in `training_limits`.

Called when a class is built, and for a command line before torch and data are loaded. Each function takes the fields of
one class by name, and raises a ValueError that names the field, its value and what is allowed.
"""

from collections.abc import Mapping
from typing import Any

from midstate.common import checks
from midstate.common.times import check_interval, steps_of

Fields = Mapping[str, Any]  # of a class, by name; from a configuration also `group`, the top-level key above it

BUDGETS = ("params", "macs")  # counted nominally, dead channels included
EXTRACTED = {f"extracted_{name}": name for name in BUDGETS}  # of filters, counted without dead channels
BITS = ("size", "bitops", "latency")  # of a quantizer
COMBINED = {"both": BUDGETS}  # names of several budgets that hold together
SCORES = ("sensitivity", "file", "hessian", "weight_error", "erk", "owl", "random")
PER = ("layer", "filter")
NORMALISERS = ("none", "mean")
REFRESHES = ("once", "tick")
ORDERS = ("default", "inverse", "random", "random_tick")
RANKS = ("layer", "network")
RERANKS = ("live", "sticky")
GRANULARITIES = ("layer", "group")
STEPS = ("single", "powers_of_two")
REPAIRS = ("deepest", "shallowest", "cost")
COMBINE = ("mean", "sum", "max")  # ways to combine the scores of a channel's filters
REGROW = ("free", "never")
GROW = ("gradient", "random")
INITIAL = ("random", "criterion")


def schedule(fields: Fields) -> None:
    """Check a schedule's window; the class itself checks the name of the curve."""
    for name in ("start", "stop"):
        steps_of(name, fields[name], 1, 1)


def nm(fields: Fields) -> None:
    """Check N:M."""
    checks.integer("m", fields["m"], 1)
    checks.integer("n", fields["n"], 1, fields["m"])
    if "permute" in fields:
        checks.boolean("permute", fields["permute"])
        checks.number("permute_seconds", fields["permute_seconds"], 0)


def share(fields: Fields) -> None:
    """Check patterns that prune a share of the units."""
    if checks.number("sparsity", fields["sparsity"], 0, 1) == 1:
        raise ValueError(f"sparsity={fields['sparsity']!r}: must be below 1; a network without weights is no network")


def channel(fields: Fields) -> None:
    """Check coupled channels."""
    share(fields)
    checks.one_of("combine", fields["combine"], COMBINE)
    checks.boolean("heads", fields["heads"])


def update(fields: Fields) -> None:
    """Check the update by which masks follow the scores."""
    timed(fields)
    checks.one_of("regrow", fields["regrow"], REGROW)
    checks.number("hysteresis", fields["hysteresis"], 0)
    checks.number("forced_swaps", fields["forced_swaps"], 0, 1)


def drop_grow(fields: Fields) -> None:
    """Check the update by which masks drop and grow weights."""
    timed(fields)
    checks.number("drop_fraction", fields["drop_fraction"], 0, 1)
    checks.one_of("grow", fields["grow"], GROW)
    checks.one_of("initial", fields["initial"], INITIAL)


def timed(fields: Fields) -> None:
    """Check the fields of every update."""
    check_interval("every", fields["every"])
    if fields["until"] is not None:
        steps_of("until", fields["until"], 1, 1)


def counted(fields: Fields) -> None:
    """Check allocations that are held to one budget."""
    _budget(fields, *EXTRACTED)


def ranked(fields: Fields) -> None:
    """Check allocations that rank all layers together."""
    checks.one_of("refresh", fields["refresh"], REFRESHES)
    checks.number("min_density", fields["min_density"], 0, 1)
    _budget(fields, *EXTRACTED, "units")


def global_(fields: Fields) -> None:
    """Check the global threshold on scores, which may be normalised first."""
    checks.one_of("normalise", fields["normalise"], NORMALISERS)
    ranked(fields)


def budget(fields: Fields) -> None:
    """Check the allocation that chooses levels under a budget."""
    checks.one_of("score", fields["score"], SCORES)
    _budget(fields, *COMBINED)
    checks.one_of("per", fields["per"], PER)
    checks.number("spread", fields["spread"], 0, 1)
    checks.integer("vectors", fields["vectors"], 1)
    levels(fields["levels"])
    _slack(fields["slack"], fields["worst"])
    if fields["per"] == "filter" and fields["score"] not in ("weight_error", "random"):
        raise ValueError(f"per='filter': score={fields['score']} knows whole layers only; use weight_error or random")
    if (fields["score"] == "file") != (fields.get("scores") is not None):
        what = "needs a table, scores=FILE" if fields.get("scores") is None else "only score=file reads scores"
        raise ValueError(f"score={fields['score']!r}: {what}; scripts/sensitivity.py makes one")
    if checks.integer("draw", fields["draw"], 0) and fields["score"] != "random":
        raise ValueError(f"draw={fields['draw']}: score={fields['score']} draws nothing; use 0, or score=random")


def tried(fields: Fields) -> None:
    """Check allocations that try whole schemes."""
    checks.integer("episodes", fields["episodes"], 1)
    checks.one_of("repair", fields["repair"], REPAIRS)
    _budget(fields)
    levels(fields["levels"])


def _budget(fields: Fields, *of_pruners: str) -> None:
    """Check what is counted; without `group`, the budgets of a pruner and of a quantizer are both allowed."""
    known = {"pruner": (*BUDGETS, *of_pruners), "quantizer": BITS}
    checks.one_of("budget", fields["budget"], known.get(fields.get("group"), (*known["pruner"], *BITS)))


def _slack(slack: object, worst: object) -> None:
    """Check how much of a budget must be spent."""
    if slack is not None:
        checks.number("slack", slack, 0, 1)
    if checks.boolean("worst", worst) and slack is None:
        raise ValueError("worst=True: without a slack, such as 0.01, the worst is to spend nothing")


def levels(value: object) -> None:
    """Check the levels to choose from; None stands for those of the pattern."""
    if value is None:
        return
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"levels={value!r}: must be a list of levels such as [1,2,4,8], or null")
    for level in value:
        checks.integer("levels", level, 1)


def blocks(fields: Fields) -> None:
    """Check the path over blocks."""
    checks.one_of("order", fields["order"], ORDERS)
    checks.one_of("rank", fields["rank"], RANKS)
    checks.one_of("rerank", fields["rerank"], RERANKS)
    checks.boolean("staircase", fields["staircase"])


def density(fields: Fields) -> None:
    """Check the path over the share of pruned units."""
    if fields["states"] is not None:
        checks.integer("states", fields["states"], 1)


def step_n(fields: Fields) -> None:
    """Check the path over N."""
    checks.one_of("granularity", fields["granularity"], GRANULARITIES)
    checks.one_of("steps", fields["steps"], STEPS)
