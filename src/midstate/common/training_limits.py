"""Allowed values of the settings of training, class by class; see `limits`."""

from midstate.common import checks
from midstate.common.limits import Fields
from midstate.common.times import check_interval, steps_of

DEVICES = ("auto", "cpu", "cuda")
MOST_THREADS = 1024  # threads that cannot be started abort the process
MODES = ("train", "finetune")
FINAL_IMAGES = ("test", "validation")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
CHANGES = ("share", "params", "noise")  # default kinds of harm by which sensitivity is measured
HALVES = ("first_half", "second_half")  # `share`, on each half of the images
DECAYS = ("cosine", "constant", "steps")
FACTOR = 0.1  # default factor at each milestone


def trainer(fields: Fields) -> None:
    """Check the training loop."""
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
    checks.one_of("final_images", fields["final_images"], FINAL_IMAGES)
    for name in ("probes", "recovery", "channels_last", "compile", "sync_batchnorm"):
        checks.boolean(name, fields[name])
    checks.integer("probe_images", fields["probe_images"], 1)
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
        checks.one_of("sensitivity_kinds", kind, (*CHANGES, *HALVES))
    if fields["probe_images"] < 2 and set(HALVES) & set(fields["sensitivity_kinds"]):
        raise ValueError("probe_images=1: sensitivity_kinds has halves of them, and one image has none")
    check_interval("checkpoint_every", fields["checkpoint_every"], "epochs such as '1ep' or steps such as '500it'")


def optimizer(fields: Fields) -> None:
    """Check the fields of every optimizer."""
    checks.number("lr", fields["lr"], 0)
    checks.number("weight_decay", fields["weight_decay"], 0)
    checks.one_of("decay", fields["decay"], DECAYS)
    steps_of("warmup", fields["warmup"], 1, 1)
    check_interval("every", fields["every"])
    checks.boolean("weight_decay_1d", fields["weight_decay_1d"])
    _milestones(fields["decay"], fields["milestones"], fields["factors"])


def sgd(fields: Fields) -> None:
    """Check SGD."""
    optimizer(fields)
    checks.number("momentum", fields["momentum"], 0, 1)
    checks.boolean("nesterov", fields["nesterov"])
    if fields["nesterov"] and fields["momentum"] == 0:
        raise ValueError("momentum=0: nesterov needs a momentum above 0, or set nesterov=false")


def adamw(fields: Fields) -> None:
    """Check AdamW."""
    optimizer(fields)
    checks.number("beta1", fields["beta1"], 0, 1 - 1e-9)
    checks.number("beta2", fields["beta2"], 0, 1 - 1e-9)


def _milestones(decay: str, milestones: object, factors: object) -> None:
    """Check when the learning rate changes, and by which factors."""
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
