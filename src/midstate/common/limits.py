"""What values the settings of a class may have, class by class.

The classes ask here when they are built, and so does the command line, before torch and data are loaded: each function
takes the fields of one class by name, and raises ValueError that names the field, its value and what is allowed.
"""

from collections.abc import Mapping
from typing import Any

from midstate.common import checks
from midstate.common.times import steps_of

Fields = Mapping[str, Any]  # of a class, by name

DEVICES = ("auto", "cpu", "cuda")
MOST_THREADS = 1024  # what cannot be begun aborts the process
MODES = ("train", "finetune")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
CHANGES = ("share", "params", "noise")  # that sensitivity is measured by
DECAYS = ("cosine", "constant", "steps")
FACTOR = 0.1  # of each milestone, unless another is asked for
BUDGETS = ("params", "macs")
SCORES = ("sensitivity", "weight_error", "erk", "owl", "random")
PER = ("layer", "filter")
NORMALISERS = ("none", "mean")
REFRESHES = ("once", "tick")
ORDERS = ("default", "inverse", "random", "random_tick")
RANKS = ("layer", "network")
RERANKS = ("live", "sticky")
GRANULARITIES = ("layer", "group")
STEPS = ("single", "powers_of_two")
REGROW = ("free", "never")
GROW = ("gradient", "random")
INITIAL = ("random", "criterion")


def trainer(fields: Fields) -> None:
    """Of the training loop."""
    checks.integer("epochs", fields["epochs"], 1)
    checks.integer("batch_size", fields["batch_size"], 1)
    checks.number("label_smoothing", fields["label_smoothing"], 0, 1)
    if fields["clip_norm"] is not None:
        checks.number("clip_norm", fields["clip_norm"], 1e-12)
    if fields["max_steps_per_epoch"] is not None:
        checks.integer("max_steps_per_epoch", fields["max_steps_per_epoch"], 1)
    checks.one_of("mode", fields["mode"], MODES)
    checks.one_of("device", fields["device"], DEVICES)
    if fields["threads"] != "auto":
        checks.integer("threads", fields["threads"], 1, MOST_THREADS)
    checks.one_of("precision", fields["precision"], PRECISIONS)
    for name in ("probes", "channels_last", "compile", "sync_batchnorm"):
        checks.boolean(name, fields[name])
    checks.integer("accumulate", fields["accumulate"], 1)
    if fields["accumulate"] > fields["batch_size"]:
        raise ValueError(f"accumulate={fields['accumulate']}: must be at most batch_size={fields['batch_size']}")
    if fields["ema"] is not None:
        checks.number("ema", fields["ema"], 0, 1)
    for name in ("mixup", "cutmix"):
        checks.number(name, fields[name], 0)
    if fields["sensitivity"] is not None:
        checks.number("sensitivity", fields["sensitivity"], 0, 1)
    for kind in checks.texts("sensitivity_kinds", fields["sensitivity_kinds"], ",".join(CHANGES)):
        checks.one_of("sensitivity_kinds", kind, CHANGES)
    _interval("checkpoint_every", fields["checkpoint_every"], "epochs such as '1ep' or steps such as '500it'")


def optimizer(fields: Fields) -> None:
    """Of every optimizer."""
    checks.number("lr", fields["lr"], 0)
    checks.number("weight_decay", fields["weight_decay"], 0)
    checks.one_of("decay", fields["decay"], DECAYS)
    steps_of("warmup", fields["warmup"], 1, 1)
    _interval("every", fields["every"])
    checks.boolean("weight_decay_1d", fields["weight_decay_1d"])
    _milestones(fields["decay"], fields["milestones"], fields["factors"])


def sgd(fields: Fields) -> None:
    """Of SGD."""
    optimizer(fields)
    checks.number("momentum", fields["momentum"], 0, 1)
    checks.boolean("nesterov", fields["nesterov"])
    if fields["nesterov"] and fields["momentum"] == 0:
        raise ValueError("momentum=0: nesterov needs a momentum above 0, or set nesterov=false")


def adamw(fields: Fields) -> None:
    """Of AdamW."""
    optimizer(fields)
    checks.number("beta1", fields["beta1"], 0, 1 - 1e-9)
    checks.number("beta2", fields["beta2"], 0, 1 - 1e-9)


def schedule(fields: Fields) -> None:
    """Of a schedule's window; which curves there are its own file knows."""
    for name in ("start", "stop"):
        steps_of(name, fields[name], 1, 1)


def nm(fields: Fields) -> None:
    """Of N:M."""
    checks.integer("m", fields["m"], 1)
    checks.integer("n", fields["n"], 1, fields["m"])


def share(fields: Fields) -> None:
    """Of patterns that prune a share of the units."""
    if checks.number("sparsity", fields["sparsity"], 0, 1) == 1:
        raise ValueError(f"sparsity={fields['sparsity']!r}: must be below 1; a network without weights is no network")


def update(fields: Fields) -> None:
    """Of masks that follow the scores."""
    timed(fields)
    checks.one_of("regrow", fields["regrow"], REGROW)
    checks.number("hysteresis", fields["hysteresis"], 0)
    checks.number("forced_swaps", fields["forced_swaps"], 0, 1)


def drop_grow(fields: Fields) -> None:
    """Of masks that exchange weights."""
    timed(fields)
    checks.number("drop_fraction", fields["drop_fraction"], 0, 1)
    checks.one_of("grow", fields["grow"], GROW)
    checks.one_of("initial", fields["initial"], INITIAL)


def timed(fields: Fields) -> None:
    """Of every update."""
    _interval("every", fields["every"])
    if fields["until"] is not None:
        steps_of("until", fields["until"], 1, 1)


def counted(fields: Fields) -> None:
    """Of allocations that are held to one budget."""
    checks.one_of("budget", fields["budget"], BUDGETS)


def ranked(fields: Fields) -> None:
    """Of allocations that rank all layers together."""
    checks.one_of("refresh", fields["refresh"], REFRESHES)
    checks.number("min_density", fields["min_density"], 0, 1)
    checks.one_of("budget", fields["budget"], (*BUDGETS, "units"))


def global_(fields: Fields) -> None:
    """Of the threshold on scores, which may be normalised first."""
    checks.one_of("normalise", fields["normalise"], NORMALISERS)
    ranked(fields)


def budget(fields: Fields) -> None:
    """Of levels that are chosen under a budget."""
    checks.one_of("score", fields["score"], SCORES)
    checks.one_of("budget", fields["budget"], (*BUDGETS, "both"))
    checks.one_of("per", fields["per"], PER)
    checks.number("spread", fields["spread"], 0, 1)
    levels(fields["levels"])
    if fields["per"] == "filter" and fields["score"] in ("sensitivity", "owl", "erk"):
        raise ValueError(f"per='filter': score={fields['score']} knows whole layers only; use weight_error or random")


def levels(value: object) -> None:
    """Of levels to choose from, or None for those that the pattern has."""
    if value is None:
        return
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"levels={value!r}: must be a list of levels such as [1,2,4,8], or null")
    for level in value:
        checks.integer("levels", level, 1)


def blocks(fields: Fields) -> None:
    """Of the path over blocks."""
    checks.one_of("order", fields["order"], ORDERS)
    checks.one_of("rank", fields["rank"], RANKS)
    checks.one_of("rerank", fields["rerank"], RERANKS)
    checks.boolean("staircase", fields["staircase"])


def step_n(fields: Fields) -> None:
    """Of the path over N."""
    checks.one_of("granularity", fields["granularity"], GRANULARITIES)
    checks.one_of("steps", fields["steps"], STEPS)


def _interval(name: str, value: object, allowed: str = "steps such as '1it' or epochs such as '1ep'") -> None:
    if not isinstance(value, str) or steps_of(name, value, 1, 1) < 1:
        raise ValueError(f"{name}={value!r}: must be {allowed}")


def _milestones(decay: str, milestones: object, factors: object) -> None:
    """Of when the learning rate changes, and by how much."""
    if not isinstance(milestones, list):
        raise ValueError(f"milestones={milestones!r}: must be a list such as [30ep,60ep,90ep]")
    for milestone in milestones:
        steps_of("milestones", milestone, 1, 1)
    several = isinstance(factors, list)
    for factor in factors if several else [factors]:
        checks.number("factors", factor, 0)
    if decay != "steps":
        for name, value, unused in (("milestones", milestones, []), ("factors", factors, FACTOR)):
            if value != unused:
                raise ValueError(f"{name}={value!r}: only decay=steps reads it, and this is decay={decay}")
    elif not milestones:
        raise ValueError("milestones=[]: decay=steps needs one at least, such as [30ep,60ep,90ep]")
    elif several and len(factors) != len(milestones):
        raise ValueError(f"factors={factors}: must be one number, or one for each of {milestones}")
