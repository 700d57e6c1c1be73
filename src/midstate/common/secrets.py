"""Keeps values of secret environment variables out of files and messages; failing output stops nothing."""

import os
import re
import sys
from contextlib import suppress
from typing import Any, TextIO

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)


def redact(value: Any) -> Any:
    """Replace every value of a secret environment variable in a configuration, or a message."""
    if isinstance(value, dict):
        return {redact(key): redact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    if isinstance(value, str):
        for text, name in _secrets():
            value = value.replace(text, f"<{name}>")
    return value


def show_any_letter() -> None:
    """Make standard output and error write characters that they cannot encode as escapes, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print for people, secrets replaced; an output that cannot be written to is ignored."""
    with suppress(OSError):
        print(redact(text), end=end, file=file, flush=True)


def flush_output() -> None:
    """Flush the output before the process ends; it is dropped if nobody reads it, or the disk is full."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a closed one is None
        try:
            stream.flush()
        except OSError:  # else Python flushes again at exit, and changes the exit status
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _secrets() -> list[tuple[str, str]]:
    """Secret values of 8 characters or more, longest first, with their names; also as `repr` has them, and by line."""
    named = [(name, value) for name, value in os.environ.items() if _SECRET.search(name)]
    texts = {
        (text, name)
        for name, value in named
        for text in (value, repr(value)[1:-1], *value.splitlines())
        if len(text) >= 8
    }
    return sorted(texts, key=lambda pair: -len(pair[0]))
