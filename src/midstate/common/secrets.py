"""Values of secret environment variables are kept out of files and messages; what cannot be shown stops nothing."""

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
    """Let standard output and error show letters that they have no code for as escapes, and not raise."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print for people, secrets replaced; where nobody can be told, the work goes on all the same."""
    with suppress(OSError):
        print(redact(text), end=end, file=file, flush=True)


def flush_output() -> None:
    """Write out what was printed before a process ends; where nobody reads it, or the disk is full, it is dropped."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a closed one is None
        try:
            stream.flush()
        except OSError:  # else Python tries again at its end, and the status is another
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _secrets() -> list[tuple[str, str]]:
    """Secret values of the environment with their names, the longest first; also as Python quotes them, and by line."""
    named = [(name, value) for name, value in os.environ.items() if _SECRET.search(name)]
    texts = {
        (text, name)
        for name, value in named
        for text in (value, repr(value)[1:-1], *value.splitlines())
        if len(text) >= 8
    }
    return sorted(texts, key=lambda pair: -len(pair[0]))
