"""Exceptions that end or refuse a run, and the exit statuses."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FINISHED, EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_STOPPED = 0, 2, 3, 75
EXIT_DEFECT = 1  # with a traceback
EXIT_NOT_OBEYED = 1  # a check answers no
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells count
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ConfigError(Exception):
    """The user's configuration cannot run; nothing has been written."""


class RunFailed(Exception):
    """Training could not go on."""


class RunStopped(Exception):
    """A run was stopped on request; the same command continues it."""


@contextmanager
def user_errors(where: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of the given kinds (default ValueError) into a ConfigError that names the part."""
    try:
        yield
    except kinds or (ValueError,) as error:  # noqa: B030
        raise ConfigError(f"{where}: {error}") from error


def first_line(error: Exception) -> str:
    """First line of an error's message, without a terminal's colours; its type if the message is empty."""
    return (_COLOURS.sub("", str(error)).strip() or type(error).__name__).splitlines()[0].rstrip()
