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
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midstate.config import ConfigError, RunFailed, RunStopped, first_line, flatten, near, say
from midstate.launchers import wait_for_submitted
from midstate.overrides import check_command_line
from midstate.stopping import asked_within, is_first, is_stopping, stop_workers_on_signal
from midstate.torchrun import local_rank

EXIT_FINISHED, EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_STOPPED = 0, 2, 3, 75
EXIT_DEFECT = 1  # with a traceback
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells count
PATIENCE = 10  # seconds
_BARE = (ValueError, OSError, ArithmeticError, RecursionError, TypeError, AssertionError)
# What launchers and sweepers raise of their own for a setting; a job's own error comes through Hydra's JobReturn.
_PLUGINS = ("joblib", "hydra_plugins", "submitit", "ray", "optuna")
# Members that bring a plugin of Hydra's, and the extra that installs it.
_EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray", "optuna": "optuna"}
CONF = Path(__file__).parents[2] / "conf"


def command_line(main: Callable[[], None]) -> int:
    """Run a `hydra.main` function; turn bad configurations and failed runs into a message and a status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us instead of Hydra's own printing
    logging.raiseExceptions = False  # a log on a full disk must not bring tracebacks
    try:
        with stop_workers_on_signal() as stop_requested:
            status = _status(main)
        # Of a pool that ends early, whatever else has failed in it, the same command goes on.
        return EXIT_STOPPED if status == EXIT_FAILED and stop_requested() else status
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # nobody reads it, or it is on a full disk: the status is to be told all the same
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Ended(BaseException):
    """Carries an error that has its own message past Hydra, which would print the command line in front of it."""


@contextmanager
def past_hydra() -> Iterator[None]:
    """Let errors reach `command_line` as they are, but in a sweep, where Hydra goes on past them.

    A search would do so with a configuration that cannot run, too, over and over; where it is in this process, it ends.
    """
    try:
        yield
    except (ConfigError, RunFailed) as error:
        config = HydraConfig.get()
        searching = is_first() and config.runtime.choices["hydra/sweeper"] != "basic"
        if config.mode == RunMode.MULTIRUN and not (searching and isinstance(error, ConfigError)):
            raise
        raise _Ended from error


def _status(main: Callable[[], None]) -> int:
    resolved = any(len(each) > 3 and "--resolve".startswith(each) for each in sys.argv)  # abbreviated, too
    try:
        check_command_line(sys.argv[1:])
        with _redacted_output() if resolved else nullcontext():
            main()
    except _Ended as ended:
        return _tell(ended.__cause__)
    except KeyboardInterrupt:  # the second; the first lets the step finish
        say("stopped at once; the last checkpoint is whole", sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        return _tell(error)
    return EXIT_FINISHED


def _tell(error: BaseException) -> int:
    """Print what an error has to say to the user; return the status that goes with it."""
    message, status = _message(error)
    # Under torchrun the others have mostly found the same; when the first has said so, torchrun stops them.
    if message and (status == EXIT_DEFECT or not local_rank() or not asked_within(PATIENCE)):
        say(message, sys.stderr)
    return status


def _message(error: BaseException) -> tuple[str | None, int]:
    if isinstance(error, RunStopped):
        return None, EXIT_STOPPED
    if isinstance(error, RunFailed):
        return f"run failed: {error}", EXIT_FAILED
    if isinstance(error, BrokenExecutor):  # joblib's, of the pool launcher
        lost = "a worker of the pool was killed, and its jobs with it; the same command runs what is not finished"
        return f"run failed: {lost} ({first_line(error)})", EXIT_FAILED
    if lost := _lost_job(error):
        wait_for_submitted()
        return None if is_stopping() else f"run failed: {lost}", EXIT_FAILED
    if is_users(error):
        return f"configuration error: {explain(error)}", EXIT_BAD_CONFIG
    return "".join(traceback.format_exception(error)), EXIT_DEFECT


def _lost_job(error: BaseException) -> str | None:
    """What to say where a sweep lacks the result of a job, or of all; None where that is not what happened."""
    frames = _frames(error)
    if ("submitit.core.core", "results") in frames:
        return (
            "a job of the sweep ended without a result; what it said is in .submitit below the sweep's directory, and "
            f"the same command runs what is not finished ({first_line(error)})"
        )
    if ("ray._private.worker", "get") in frames:
        return (
            "a job of the sweep was lost, and those beside it stopped; the same command runs what is not finished "
            f"({first_line(error)})"
        )
    if ("optuna.study.study", "best_trial") in frames:
        return "no trial of the sweep has finished"
    return None


@contextmanager
def _redacted_output() -> Iterator[None]:
    """Keep secrets that references in a configuration stand for out of what is printed of it."""
    try:
        with redirect_stdout(StringIO()) as text:
            yield
    finally:
        say(text.getvalue(), end="")


def is_users(error: Exception) -> bool:
    """Tell whether an error speaks of the configuration; anything else is a defect and keeps its traceback."""
    if isinstance(error, InstantiationException):
        return False  # `build` has already taken out those that are the user's
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException):
        return True
    # Hydra answers some overrides, such as group=null, with a bare error of its own; so do its launchers.
    frames = _frames(error)
    last = frames[-1][0].split(".")[0]
    if last == "submitit" or ("submitit.core.core", "map_array") in frames:  # no Slurm here, or what it refuses
        return isinstance(error, (*_BARE, RuntimeError))
    return (
        isinstance(error, _BARE)
        and not any(module == "midstate.run" for module, _ in frames)
        and frames[-1] != ("hydra.core.utils", "return_value")  # a job's, from another process
        and last in ("hydra", "omegaconf", "antlr4", "os", "pathlib", *_PLUGINS)
    )


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """Module and function of each frame that an error came through, its own last."""
    walked = traceback.walk_tb(error.__traceback__)
    return [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame, _ in walked]


def explain(error: Exception) -> str:
    """The error in a few lines, with suggestions for what looks like a typo."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Hydra ends with its search path and the way round its own check; neither helps somebody who mistyped a name.
    noise = re.compile(r"Config search path|To append to your default list|\s*provider|To append to your config use")
    message = "\n".join(line for line in lines if not noise.match(line))
    message = re.sub(r"Available options in '.*':\n\t", "available: ", message).replace("\n\t", ", ")
    message = "\n".join(message.splitlines()[:8])
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        message += f"\n{str(error.__cause__).splitlines()[0]}"
    if (missing := re.search(r"Could not find 'hydra/\w+/(\w+)'", message)) and missing[1] in _EXTRAS:
        extra = _EXTRAS[missing[1]]
        return f"hydra's plugin for {missing[1]} is not installed: pip install -e '.[{extra}]'"
    if message.startswith("LexerNoViableAltException"):
        return message.replace("LexerNoViableAltException", "not readable, put the value into quotes, name='\"value\"'")
    if added := re.search(r"full_key: (model\.arguments\.\S+)", str(error.__cause__)):
        return f"{message}; further arguments are added: +{added[1]}=VALUE"
    if typed := re.search(r"Could not (?:override|find|load) '([\w./@-]+)'", message):
        message += _suggest(typed[1])
    return message


def _suggest(typed: str) -> str:
    """What a mistyped group, member or key may have been meant to be."""
    members: dict[str, list[str]] = {}
    for path in CONF.glob("*/**/*.yaml"):
        if path.parent == CONF / "experiment" / "base":
            continue  # what arms share, no arms
        members.setdefault(path.parent.relative_to(CONF).as_posix(), []).append(path.stem)
    group, _, member = typed.rpartition("/")
    if typed in members:  # a group that only some members of the one above bring
        owners = [name for name in members[group] if f"- {member}:" in (CONF / group / f"{name}.yaml").read_text()]
        return f"; it goes with {group}={' or '.join(sorted(owners))}"
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
