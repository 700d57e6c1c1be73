"""The command line's last line of defence: errors become a message a user can act on, and an exit status."""

import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midstate.config import ConfigError, RunFailed, check_hydra_overrides, first_line, flatten, near, redact

EXIT_FINISHED, EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_STOPPED = 0, 2, 3, 75
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells count
CONF = Path(__file__).parents[2] / "conf"


def command_line(main: Callable[[], None]) -> int:
    """Run a `hydra.main` function; turn bad configurations and failed runs into a message and a status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us instead of Hydra's own printing
    logging.raiseExceptions = False  # no tracebacks from W&B's own logs where a disk is full
    try:
        check_hydra_overrides(sys.argv[1:])
        resolved = any(len(each) > 3 and "--resolve".startswith(each) for each in sys.argv)  # abbreviated, too
        with _redacted_output() if resolved else nullcontext():
            main()
    except RunFailed as error:
        print(f"run failed: {redact(str(error))}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenExecutor as error:  # joblib's, of the pool launcher
        lost = "a worker of the pool was killed, and its jobs with it; the same command runs what is not finished"
        print(f"run failed: {lost} ({first_line(error)})", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:  # the second; the first lets the step finish
        print("stopped at once; the last checkpoint is whole", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if not is_users(error):
            raise
        print(f"configuration error: {redact(explain(error))}", file=sys.stderr)
        return EXIT_BAD_CONFIG
    return EXIT_FINISHED


@contextmanager
def _redacted_output() -> Iterator[None]:
    """Keep secrets that references in a configuration stand for out of what is printed of it."""
    with redirect_stdout(StringIO()) as text:
        yield
    print(redact(text.getvalue()), end="")


def is_users(error: Exception) -> bool:
    """Tell whether an error speaks of the configuration; anything else is a defect and keeps its traceback."""
    if isinstance(error, InstantiationException):
        return False  # `build` has already taken out those that are the user's
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException):
        return True
    # Hydra answers some overrides, such as group=null, with a bare ValueError of its own.
    raised_in = list(traceback.walk_tb(error.__traceback__))[-1][0].f_globals["__name__"]
    return isinstance(error, ValueError) and raised_in.split(".")[0] in ("hydra", "omegaconf")


def explain(error: Exception) -> str:
    """The error in a few lines, with suggestions for what looks like a typo."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Hydra ends with its search path and the way round its own check; neither helps somebody who mistyped a name.
    noise = re.compile(r"Config search path|\s*provider|To append to your config use")
    message = "\n".join(line for line in lines if not noise.match(line))
    message = re.sub(r"Available options in '.*':\n\t", "available: ", message).replace("\n\t", ", ")
    message = "\n".join(message.splitlines()[:8])
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        message += f"\n{str(error.__cause__).splitlines()[0]}"
    if message.startswith("LexerNoViableAltException"):
        return message.replace("LexerNoViableAltException", "not readable, put the value into quotes, name='\"value\"'")
    if typed := re.search(r"Could not (?:override|find|load) '([\w./@-]+)'", message):
        message += _suggest(typed[1])
    return message


def _suggest(typed: str) -> str:
    """What a mistyped group, member or key may have been meant to be."""
    members: dict[str, list[str]] = {}
    for path in CONF.glob("*/**/*.yaml"):
        members.setdefault(path.parent.relative_to(CONF).as_posix(), []).append(path.stem)
    group, _, member = typed.rpartition("/")
    if group in members:
        return near(member, members[group])
    prefix, _, last = typed.rpartition(".")
    owners = [
        path.relative_to(CONF).with_suffix("").as_posix()
        for path in sorted(CONF.glob(f"{prefix or '*'}/*/*.yaml"))
        if re.search(rf"^{re.escape(last)}:", path.read_text(), re.MULTILINE)
    ]
    if prefix and owners:
        return f"; {last} is a setting of {' and '.join('='.join(owner.rsplit('/', 1)) for owner in owners)}"
    known = [*members, *_composed_keys(list(members))]
    same_last = [key for key in known if key.rpartition(".")[2] == last]
    guess = f"; did you mean {' or '.join(same_last)}?" if same_last else near(typed, known, cutoff=0.8)
    return guess if guess or prefix else f"; the groups are {', '.join(sorted(members))}"


def _composed_keys(groups: list[str]) -> list[str]:
    """Keys of the configuration that the command line's valid group choices compose."""
    GlobalHydra.instance().clear()
    typed = [argument.partition("=") for argument in sys.argv[1:]]
    valid = [
        f"{group}={member}"
        for group, _, member in typed
        if group in groups and (CONF / group / f"{member}.yaml").is_file()
    ]
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("train", overrides=valid)
    except HydraException:
        return []  # the choices clash for another reason; a suggestion is only a courtesy
    # An axis reads its values from the short names beside it; those are what a user types.
    return [
        key
        for key, value in flatten(OmegaConf.to_container(config, resolve=False))
        if not str(value).startswith("${pruner.")
    ]
