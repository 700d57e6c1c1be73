"""What ends a run or refuses it, and the exit status that goes with each."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FINISHED, EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_STOPPED = 0, 2, 3, 75
EXIT_DEFECT = 1  # with a traceback
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells count


class ConfigError(Exception):
    """The user's configuration cannot run; nothing has been written."""


class RunFailed(Exception):
    """Training could not go on."""


class RunStopped(Exception):
    """A run was stopped on request; it goes on by the same command."""


@contextmanager
def user_errors(where: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a part refuses into a ConfigError that says which part."""
    try:
        yield
    except kinds or (ValueError,) as error:  # noqa: B030
        raise ConfigError(f"{where}: {error}") from error


def first_line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
