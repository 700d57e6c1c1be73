"""Settings with values that are text, kept as typed: Hydra reads 2024_11_29 as a number, and refuses a second `=`."""

import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from midstate.config.schema import GROUPS

_OF_SLURM = ("name", "partition", "qos", "comment", "constraint", "exclude", "gres", "account")
# Names, places and patterns. Settings with a few fixed words (optimizer.decay) and times are not here.
TEXTS = {
    "run_dir",
    *("model.name", "model.checkpoint"),
    *("data.root", "data.name", "data.train", "data.validation", "data.test", "data.augmentation.auto_augment"),
    *("logger.project", "logger.group", "logger.tags"),
    *("pruner.like", "pruner.narrow.like", "pruner.scheme", "pruner.allocation.scheme"),
    *("pruner.include", "pruner.scope.include", "pruner.exclude", "pruner.scope.exclude"),
    *("quantizer.scheme", "quantizer.allocation.scheme", "quantizer.latency", "quantizer.method.latency"),
    *("quantizer.exclude", "quantizer.scope.exclude"),
    *("pruner.scores", "pruner.allocation.scores", "quantizer.scores", "quantizer.allocation.scores"),
    *("hydra.sweep.dir", "hydra.sweeper.study_name"),
    *(f"hydra.launcher.{name}" for name in _OF_SLURM),
}


def as_typed(arguments: list[str]) -> list[str]:
    """Put quotes around values of textual settings that Hydra would read as something else, or not at all.

    Lists stay lists, and values of a sweep stay values of a sweep: each is quoted by itself.
    """
    return [_as_typed(argument) for argument in arguments]


def _as_typed(argument: str) -> str:
    found = re.fullmatch(r"\+{0,2}([\w./]+)(@[\w.:]*)?=(.*)", argument, re.DOTALL)
    if not found or not (found[1] in TEXTS or found[1] in GROUPS or "/" in found[1]):
        return argument
    return argument[: found.start(3)] + _text(found[3])


def _text(value: str) -> str:
    if sweep := re.fullmatch(r"\s*choice\((.*)\)\s*", value, re.DOTALL):
        value = sweep[1]  # a,b is the same sweep; inside choice() Hydra drops the quotes
    values = _split(value)
    if len(values) > 1:
        return ",".join(map(_text, values))
    if several := re.fullmatch(r"\s*\[(.*)]\s*", value, re.DOTALL):
        return f"[{_text(several[1])}]"
    return _one(value.strip())


def _one(value: str) -> str:
    """One value, in quotes where Hydra would read it as a number or a bool, or cannot read it."""
    try:
        read = OverridesParser.create().parse_override(f"text={value}").value()
    except HydraException:
        begun = value.startswith(("'", '"'))  # the user's own quotes: Hydra reports the error
        return value if begun else _quoted(value)
    return _quoted(value) if isinstance(read, bool | int | float) else value


def _quoted(value: str) -> str:
    return QuotedString(text=value, quote=Quote.single).with_quotes()


def _split(text: str) -> list[str]:
    """Split at the commas that are in no quotes and no brackets."""
    parts, depth, quote, escaped = [""], 0, "", False
    for letter in text:
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    return parts
